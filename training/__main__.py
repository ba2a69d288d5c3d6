"""`python -m training`: the command that trains."""

import os
import sys
from pathlib import Path

import tyro

from training.config import Config
from training.errors import TrainingError

DATA_ROOT_VARIABLE = "VAEPORT_DATA_ROOT"  # where torchvision's data sets lie


def main() -> int:
    """Parse the settings, train, and return the exit status."""
    config = tyro.cli(Config, prog="python -m training").with_default_run()
    try:
        config.check()
        train_and_report(config, Path(os.environ.get(DATA_ROOT_VARIABLE, "data")))
    except (TrainingError, OSError) as error:
        print(f"training: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; go on with --resume" if (config.run / "run.json").exists() else ""
        print(f"training: stopped{hint}", file=sys.stderr)
        return 130
    return 0


def train_and_report(config: Config, data_root: Path) -> None:
    """Load the data, train, draw the pictures and write the report.

    Raises:
        TrainingError: what the user can mend.
    """
    import torch  # not at the top: --help needs neither it nor matplotlib

    from training import data, plots, report
    from training.files import remove_leftovers
    from training.loop import choose_device, train
    from training.run import check_resumable, config_to_json, create_run, locked, open_run

    # Adam's moments become denormal numbers, which make some processors take half as long again. It is a setting of the
    # whole process, so main makes it, and before anything computes: threads inherit it when they are made.
    torch.set_flush_denormal(True)
    device = choose_device(config.device)
    dataset = data.load(config.data, data_root, config.seed)
    run = open_run(config.run) if config.resume else create_run(config, dataset, device.type)
    check_resumable(run, config, dataset, device.type)
    with locked(run.path):
        remove_leftovers(run.path)
        run.describe(config=config_to_json(config))  # of which resuming may change the epochs
        channels, height, width = dataset.image_shape
        print(
            f"{config.data}: {len(dataset.train)} images to train on, {len(dataset.test)} to test on, "
            f"{channels}x{height}x{width}"
        )
        rows = train(config, dataset, run, device)
        model, _ = run.load_model()
        pictures = plots.plot_run(run, model, dataset, rows)
        report.write_report(run, config, pictures)
    print(f"wrote {run.path}: checkpoint.safetensors (epoch {run.description['best']['epoch']}), report.md, plots")


if __name__ == "__main__":
    sys.exit(main())
