"""What the KL term is for: a plain autoencoder and a VAE of the same network, on scikit-learn's digits.

Both are trained alike. The autoencoder is free to put its codes where it likes, so that a draw from the prior is no
digit; the KL term brings them where the prior is. docs/theory.md has the picture and the numbers.

    python -m examples.autoencoder_vs_vae -o docs/autoencoder.png
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from training import VAE, data
from training.batches import ordered
from training.config import Config
from training.data import Dataset, Images
from training.loop import train
from training.run import LAST, create_run

CPU = torch.device("cpu")
SETTINGS = Config(
    "digits", latent_dim=8, hidden_dims=(256, 256), likelihood="gaussian", variance="analytic", epochs=150, device="cpu"
)
KINDS = {"autoencoder": True, "VAE": False}
NEIGHBOURS = 3  # as the paper has it
SEED = 0
COLUMNS, ROWS = 8, 6  # of samples in the picture
DPI = 110

Rows = NDArray[Any]  # [N, pixels], floats


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a trained model does. Samples are as many as there are images.

    Attributes:
        known_error, held_out_error: squared error of reconstructions from the posterior mean, summed over the pixels of
            an image; the mean over the training images, and over the others.
        precision: the share of samples of the prior that lie among the images.
        recall: the share of the images that lie among these samples.
        refitted: the precision of samples whose latents come from a normal distribution fitted to the training images'
            posterior means.
        restored: the reconstructions of the held-out images.
        samples: of the prior.
    """

    known_error: float
    held_out_error: float
    precision: float
    recall: float
    refitted: float
    restored: Rows
    samples: Rows


def main() -> None:
    """Train both, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description="A plain autoencoder and a VAE of the same network.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png")
    options = parser.parse_args()
    torch.set_num_threads(1)  # layers this small gain nothing from a second one
    torch.set_flush_denormal(True)  # as `python -m training` does
    dataset = data.load(SETTINGS, Path())
    known, held_out = (images_of(part, dataset) for part in (dataset.train, dataset.test))
    judgements = {kind: judge(trained(dataset, autoencoder=flag), known, held_out) for kind, flag in KINDS.items()}
    print(table(judgements))
    print(f"\nprecision of the held-out images among the others: {precision(known.numpy(), held_out.numpy()):.3f}")
    figure = picture(judgements, held_out, dataset.image_shape[1:])
    figure.savefig(options.output, dpi=DPI, bbox_inches="tight", metadata={"Software": None})


def trained(dataset: Dataset, *, autoencoder: bool) -> VAE:
    """The weights after the last epoch, so that both have had as many steps."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(**{**SETTINGS.to_json(), "run": Path(folder) / "run", "autoencoder": autoencoder})
        run = create_run(config, dataset, "cpu")
        train(config, dataset, run, CPU)
        return run.load_model(LAST)[0]


@torch.inference_mode()
def judge(model: VAE, known: Tensor, held_out: Tensor) -> Judgement:
    """Reconstruct images, decode samples, and compare those with all images.

    Args:
        model: in eval mode.
        known, held_out: the images that it was trained on, and the others, [N, pixels].
    """
    real = torch.cat((known, held_out))
    codes = model.encode(real)[0]
    restored = model.decode(codes)
    errors = (restored - real).square().sum(1)
    noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(SEED))
    samples = model.decode(noise).numpy()
    fitted = codes[: len(known)]
    refitted = model.decode(fitted.mean(0) + noise @ torch.linalg.cholesky(torch.cov(fitted.T)).T)
    return Judgement(
        known_error=errors[: len(known)].mean().item(),
        held_out_error=errors[len(known) :].mean().item(),
        precision=precision(real.numpy(), samples),
        recall=precision(samples, real.numpy()),
        refitted=precision(real.numpy(), refitted.numpy()),
        restored=restored[len(known) :].numpy(),
        samples=samples,
    )


def precision(real: Rows, generated: Rows, neighbours: int = NEIGHBOURS) -> float:
    """The share of `generated` within the manifold of `real`: improved precision, arXiv 1904.06991, section 2.

    The manifold is the union of balls around the real images, each as large as the distance to the image's k-th nearest
    neighbour among them. The paper measures distances between features of a network; here they are between pixels.

    Args:
        real: [N, pixels], more than `neighbours`.
        generated: [M, pixels].
        neighbours: k.
    """
    near = NearestNeighbors(n_neighbors=neighbours).fit(real)
    radii = near.kneighbors()[0][:, -1]  # of each fitted image, which is no neighbour of itself
    return float((pairwise_distances(generated, real) <= radii).any(axis=1).mean())


def images_of(part: Images, dataset: Dataset) -> Tensor:
    """The images of a part, [N, pixels] in [0, 1]."""
    return torch.cat(list(ordered(part, dataset, CPU))).flatten(1)


def table(judgements: dict[str, Judgement]) -> str:
    """The numbers as Markdown."""
    lines = [
        "| | squared error, training | squared error, held-out | precision | recall | precision, normal fitted after |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in judgements.items():
        numbers = (found.known_error, found.held_out_error, found.precision, found.recall, found.refitted)
        lines.append(f"| {kind} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    return "\n".join(lines)


def picture(judgements: dict[str, Judgement], held_out: Tensor, size: tuple[int, int]) -> Figure:
    """Reconstructions above, samples of the prior below, the two models side by side."""
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, len(judgements), height_ratios=(2, ROWS))
    for (above, below), (kind, found) in zip(panels.T, judgements.items(), strict=True):
        pairs = np.concatenate((held_out[:COLUMNS].numpy(), found.restored[:COLUMNS]))
        show(above, tiles(pairs, size), f"{kind}: held-out images, reconstructions")
        show(below, tiles(found.samples[: ROWS * COLUMNS], size), f"{kind}: samples of the prior")
    return figure


def tiles(images: Rows, size: tuple[int, int]) -> Rows:
    """[rows * COLUMNS, pixels] as one picture, with a white line between them."""
    height, width = size
    padded = np.pad(images.reshape(-1, height, width), ((0, 0), (0, 1), (0, 1)), constant_values=1.0)
    grid = padded.reshape(-1, COLUMNS, height + 1, width + 1).transpose(0, 2, 1, 3)
    joined: Rows = grid.reshape(-1, COLUMNS * (width + 1))[:-1, :-1]
    return joined


def show(axes: Axes, image: Rows, title: str) -> None:
    """A grey picture under its title."""
    axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


if __name__ == "__main__":
    main()
