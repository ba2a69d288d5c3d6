"""One epoch of the reference network on MNIST: our loop against the plain one.

The plain loop is what a tutorial writes: torchvision's MNIST with ToTensor, a DataLoader, Adam, the loss on
probabilities, and `loss.item()` at every step. Both run in processes of their own, in turn, with the same network,
batch size and learning rate; the figure is the median over the epochs of all rounds.

    python -m benchmarks.training_epoch             MNIST in VAEPORT_DATA_ROOT
    python -m benchmarks.training_epoch --long      also trains both for 10 epochs, to compare the losses there
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
EPOCHS = 3  # a round
LONG_EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 1e-3

Row = dict[str, float]


def main() -> None:
    """Run both loops in turn and print the table."""
    parser = argparse.ArgumentParser(description="Our training loop against the plain one, one epoch of MNIST each.")
    parser.add_argument("--long", action="store_true", help=f"also {LONG_EPOCHS} epochs of each, for the losses")
    parser.add_argument("--run-loop", choices=sorted(LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_loop:
        print(json.dumps(LOOPS[options.run_loop](options.epochs)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(ROUNDS):
        for name, measured in seconds.items():
            measured += [row["seconds"] for row in _run(name, EPOCHS)]
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    print("| one epoch of MNIST, CPU | seconds, median | min | max |\n|---|---|---|---|")
    for name, measured in seconds.items():
        print(f"| {name} | {medians[name]:.2f} | {min(measured):.2f} | {max(measured):.2f} |")
    print(f"\nratio: {medians['plain'] / medians['ours']:.2f}\n")
    if options.long:
        losses = {name: _run(name, LONG_EPOCHS)[-1]["train_loss"] for name in LOOPS}
        print(
            f"training loss, epoch {LONG_EPOCHS}: " + ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items())
        )


def ours(epochs: int) -> list[Row]:
    """The rows of `training.loop.train`."""
    import torch

    from training import data
    from training.config import Config, data_root
    from training.loop import train
    from training.run import create_run

    torch.set_flush_denormal(True)  # as `python -m training` does
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            "mnist", Path(folder) / "run", epochs=epochs, batch_size=BATCH_SIZE, lr=LEARNING_RATE, device="cpu"
        )
        dataset = data.load(config, data_root())
        return train(config, dataset, create_run(config, dataset, "cpu"), torch.device("cpu"))


def plain(epochs: int) -> list[Row]:
    """The tutorial's loop."""
    import torch
    from torchvision import datasets, transforms

    from training import VAE, vae_loss

    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.MNIST(_unpackable(Path(folder)), download=True, transform=transforms.ToTensor())
        loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
        model = VAE()
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        for _ in range(epochs):
            started, total = time.perf_counter(), 0.0
            for x, _label in loader:
                optimizer.zero_grad()
                x_recon, mu, log_var = model(x)
                loss = vae_loss(x, x_recon, mu, log_var)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item() * len(x)
                optimizer.step()
            rows.append({"seconds": time.perf_counter() - started, "train_loss": total / len(dataset)})
    return rows


LOOPS = {"ours": ours, "plain": plain}


def _run(name: str, epochs: int) -> list[Row]:
    """One loop in a process of its own; it prints its rows last."""
    command = [sys.executable, "-m", "benchmarks.training_epoch", "--run-loop", name, "--epochs", str(epochs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows: list[Row] = json.loads(output.splitlines()[-1])
    return rows


def _unpackable(folder: Path) -> Path:
    """A folder where torchvision finds the archives and may unpack them."""
    from training.config import data_root

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (data_root() / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive.resolve())
    return folder


if __name__ == "__main__":
    main()
