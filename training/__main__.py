"""`python -m training`: the command that trains; `python -m training evaluate RUN` the one that judges a run."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from training.config import DEFAULTS, Config, ConfigError, data_root, flag
from training.errors import TrainingError
from training.recipe import with_recipe

if TYPE_CHECKING:
    from training.data import Dataset
    from training.processes import Processes

TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # set for each process that torchrun starts
AGREED_STEPS = 10  # how often several processes agree whether to stop
NAMED_CLASSES = 10  # the most classes that are named at the start


class Stop(Exception):  # noqa: N818 - somebody asked for it
    """A signal asked to stop, and the run's state has been saved. `args[0]` is the signal's number."""


def main() -> int:
    """Parse the settings, train or evaluate, and return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8; standard error does so
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)  # while modules are imported; without an exception, which they may drop
    import tyro

    arguments = sys.argv[1:]
    run = Path()
    try:
        if arguments[:1] == ["evaluate"]:
            from training.summary import evaluate_command

            _interruptible()
            evaluate_command(arguments[1:], data_root())
            return 0
        config = tyro.cli(Config, prog="python -m training", args=with_recipe(arguments)).with_default_run()
        run = config.run
        config.check()
        train_and_report(config, data_root())
    except BrokenPipeError:  # the reader of the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it exits
        return 141  # what shells say of SIGPIPE
    except (TrainingError, OSError) as error:
        print(f"training: error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        less = "smaller --image-size, --hidden-dims, --importance-samples and, to train, --batch-size need less"
        print(f"training: error: out of memory: {str(error).partition(chr(10))[0]}; {less}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stop) as stop:
        hint = "; go on with --resume" if (run / "run.json").exists() else ""
        if os.environ.get("RANK", "0") == "0":  # only one of torchrun's processes prints
            print(f"training: stopped{hint}", file=sys.stderr)
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)
    return 0


def _end(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)


def _interruptible() -> None:
    """SIGINT is a KeyboardInterrupt again, which `main` reports."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch, whose allocator on the CPU has no error of its own, found no memory."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def train_and_report(config: Config, data_root: Path) -> None:
    """Load the data, train, draw the pictures and write the report.

    Raises:
        TrainingError: a mistake that the user can correct.
        Stop: a signal asked for it.
    """
    import torch  # not at the top: --help needs neither it nor matplotlib

    from training.files import remove_leftovers
    from training.initial import check_start
    from training.loop import choose_device, plan_of, train
    from training.processes import ALONE, joined
    from training.run import check_resumable, create_run, locked, open_run
    from training.summary import finish

    _interruptible()
    # Adam's moments become denormal numbers, which make some processors take half as long again. It is a setting of the
    # whole process, so main makes it, and before anything computes: threads inherit it when they are made.
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"  # PyTorch would allow it for convolutions
    device = choose_device(config.device)
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32 needs CUDA, and there is no usable GPU")
    with joined(device.type) if TORCHRUN_VARIABLE in os.environ else nullcontext(ALONE) as processes:
        processes.check(config)
        dataset = _load(config, data_root, processes)
        if not processes.leads:
            processes.wait()  # for the run directory
            with _stop_requests(processes) as stopping:
                train(config, dataset, open_run(config.run), device, processes, stopping)
            processes.wait()  # for the report: the first process to leave cuts the connections of the others
            return
        plan = plan_of(config, dataset)
        for line in config.without_effect():
            print(f"training: warning: {line}", file=sys.stderr)
        if not config.resume:
            check_start(config, dataset)
        run = open_run(config.run) if config.resume else create_run(config, dataset, device.type)
        check_resumable(run, config, dataset, device.type)
        with locked(run.path):
            remove_leftovers(run.path)
            run.describe(config=config.to_json(), processes=processes.count)  # which resuming may change in part
            processes.wait()
            _announce(config, dataset)
            with _stop_requests(processes) as stopping:
                rows = train(config, dataset, run, device, processes, stopping)
            finish(run, config, dataset, plan, rows)
            processes.wait()


def _load(config: Config, data_root: Path, processes: "Processes") -> "Dataset":
    """Load the data, in the leading process first: it may have to download."""
    from training import data

    if not processes.leads:
        processes.wait()
        return data.load(config, data_root)
    dataset = data.load(config, data_root)
    processes.wait()
    return dataset


def _announce(config: Config, dataset: "Dataset") -> None:
    channels, height, width = dataset.image_shape
    print(
        f"{config.data}: {len(dataset.train)} images to train on, {len(dataset.test)} to test on, "
        f"{channels}x{height}x{width}{_classes_text(dataset.classes)}"
    )
    for note in dataset.notes:
        print(f"training: warning: {note}", file=sys.stderr)
    if dataset.split["kind"] == "own":
        idle = {"test_fraction"} if config.binarization == "static" else {"test_fraction", "split_seed"}
        for name in sorted(idle):
            if getattr(config, name) != getattr(DEFAULTS, name):
                print(f"training: warning: {flag(name)} has no effect: these data have a test part", file=sys.stderr)
    if config.init_from is not None:
        print(
            f"training: warning: starting from {config.init_from}: the latent space moves, so embeddings of that model "
            "and of this one do not compare",
            file=sys.stderr,
        )


def _classes_text(classes: tuple[str, ...] | None) -> str:
    if classes is None:
        return ""
    more = ", ..." if len(classes) > NAMED_CLASSES else ""
    return f"; {len(classes)} classes: {', '.join(classes[:NAMED_CLASSES])}{more}"


@contextmanager
def _stop_requests(processes: "Processes") -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has asked to stop after the step in progress; a second one ends at once.

    Several processes agree on a step every AGREED_STEPS, or they would wait for each other for ever. Each may get the
    signal twice, from the terminal and from torchrun, which kills those that take too long.
    """
    from training.loop import InterruptedRun

    received: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if received and processes.count == 1:
            raise KeyboardInterrupt(number)
        received.append(number)

    calls = 0

    def stopping() -> bool:
        nonlocal calls
        calls += 1
        if processes.count == 1:
            return bool(received)
        return calls % AGREED_STEPS == 0 and processes.any(bool(received))

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    except InterruptedRun:
        raise Stop(received[0] if received else signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    status = main()
    if TORCHRUN_VARIABLE in os.environ:  # at the end of Python, threads of PyTorch's now and then abort the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
