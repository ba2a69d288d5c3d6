"""report.md: a run at a glance."""

import shlex
from pathlib import Path

from training.config import Config
from training.files import write_atomically
from training.run import Run

FLAGS = ("data", "epochs", "latent_dim", "hidden_dim", "batch_size", "lr", "seed", "run")


def write_report(run: Run, config: Config, pictures: list[Path]) -> None:
    """Write report.md: the numbers of the best and the last epoch, the pictures, and the command to do it again."""
    data, model, best, last = (run.description[key] for key in ("data", "model", "best", "last"))
    rows = [
        f"| {name} | {best[key]:.2f} | {last[key]:.2f} |"
        for name, key in (
            ("training: negative ELBO", "train_loss"),
            ("training: reconstruction", "reconstruction"),
            ("training: KL divergence", "kl"),
            ("test: negative ELBO", "test_loss"),
            ("test: reconstruction", "test_reconstruction"),
            ("test: KL divergence", "test_kl"),
        )
    ]
    command = " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(getattr(config, name)))}" for name in FLAGS)
    lines = [
        f"# Run {run.path.name}",
        "",
        f"A variational autoencoder with {model['latent_dim']} latent dimensions, trained on {data['train']} images of",
        f"{data['name']} ({'x'.join(map(str, model['image_shape']))}), tested on {data['test']}.",
        "",
        f"| nats per image, one draw of the latent | best (epoch {best['epoch']}) | last (epoch {last['epoch']}) |",
        "|---|---|---|",
        *rows,
        "",
        "Grey pixels are the targets of a Bernoulli likelihood: these numbers compare only with others of that kind.",
        "",
        *(f"![{path.stem}]({path.relative_to(run.path).as_posix()})" for path in pictures),
        "",
        "Again:",
        "",
        f"    python -m training {command}",
        "",
    ]
    write_atomically(run.path / "report.md", "\n".join(lines).encode())
