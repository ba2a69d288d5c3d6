"""Pictures of a run that a person would look at."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn import functional

from training.batches import evaluation_rows, ordered
from training.data import Dataset, Images
from training.files import write_atomically
from training.latents import active
from training.model import VAE
from training.objective import kl_per_latent
from training.run import Metrics, Run

CPU = torch.device("cpu")
COLUMNS = 10
TRAVERSAL_STEPS = 11  # odd, so that 0, or the mean, is one of them
INTERPOLATIONS = 8
TRAVERSED_LATENTS = 20
SHOWN_IMAGES = 5000  # of the held-out ones, at most
GRID_SIDE = 20
LEGEND_CLASSES = 20
PLOT_SEED = 0  # of the images shown, and of the samples
DPI = 120
SAME_LOSS = 1e-4  # relative: sums in another order differ by less
MIN_TILE_PIXELS = 48  # small images are shown enlarged, each pixel a square
MAX_TILE_PIXELS = 96  # of the longer side; larger images are shown smaller

Pictures = NDArray[np.float32]  # [N, C, H, W] in [0, 1]


class Posterior(NamedTuple):
    """Posteriors of held-out images: mean and KL in nats, both [images, latent_dim]."""

    mean: torch.Tensor
    kl: torch.Tensor


def plot_run(run: Run, model: VAE, dataset: Dataset, rows: list[Metrics]) -> list[Path]:
    """Write all pictures of a run to its plots/ folder; returns their paths."""
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    model = model.cpu().eval()
    shown = dataset.test.some(SHOWN_IMAGES, PLOT_SEED)
    posterior = _posterior(model, shown, dataset)
    figures = {
        "reconstructions": reconstructions(model, shown, dataset),
        "samples": samples(model, dataset.image_shape),
        "traversals": traversals(model, dataset.image_shape, posterior),
        "kl_per_latent": kl_bars(posterior),
        "latents": latent_scatter(posterior.mean, shown.labels, dataset.classes),
        "losses": losses(rows, autoencoder=run.config.autoencoder),
    }
    if run.config.autoencoder:  # without a posterior
        del figures["kl_per_latent"]
        figures["traversals"] = code_traversals(model, dataset.image_shape, posterior.mean)
    if len(posterior.mean) > 1:
        figures["interpolations"] = interpolations(model, dataset, posterior)
    if model.latent_dim == 2:
        figures["latent_grid"] = latent_grid(model, dataset.image_shape)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        write_atomically(paths[-1], png.getvalue())
    return paths


def reconstructions(model: VAE, shown: Images, dataset: Dataset) -> Figure:
    """Held-out images, each over its reconstruction from the posterior mean, in pairs of rows."""
    first = shown.take(np.arange(min(3 * COLUMNS, len(shown))))
    originals = torch.cat([_shrunk(x) for x in ordered(first, dataset, CPU)]).numpy()
    with torch.inference_mode():
        restored = _decode(model, _posterior(model, first, dataset).mean, dataset.image_shape)
    rows = []
    for start in range(0, len(originals), COLUMNS):
        rows += [originals[start : start + COLUMNS], restored[start : start + COLUMNS]]
    return _tiles(rows, "Held-out images, each above its reconstruction")


@torch.inference_mode()
def interpolations(model: VAE, dataset: Dataset, posterior: Posterior) -> Figure:
    """From the posterior mean of one held-out image to that of another, in equal steps along the line."""
    pairs = min(INTERPOLATIONS, len(posterior.mean) // 2)
    steps = torch.linspace(0.0, 1.0, COLUMNS)[:, None]
    rows = []
    for first, second in zip(posterior.mean[:pairs], posterior.mean[pairs : 2 * pairs], strict=True):
        rows.append(_decode(model, torch.lerp(first, second, steps), dataset.image_shape))
    return _tiles(rows, "Between the posterior means of two held-out images (left and right)")


@torch.inference_mode()
def traversals(model: VAE, image_shape: tuple[int, int, int], posterior: Posterior) -> Figure:
    """One active latent at a time from -3 to 3, the others at the posterior mean of a held-out image, by falling KL."""
    used = active(posterior.mean)
    order = posterior.kl.mean(0).argsort(descending=True)
    chosen = (order[used[order]] if used.any() else order)[:TRAVERSED_LATENTS]
    rows = []
    for latent in chosen:
        latents = posterior.mean[:1].repeat(TRAVERSAL_STEPS, 1)
        latents[:, latent] = torch.linspace(-3.0, 3.0, TRAVERSAL_STEPS)
        rows.append(_decode(model, latents, image_shape))
    names = [f"{int(latent)}: {posterior.kl[:, latent].mean():.2f}" for latent in chosen]
    title = (
        f"{len(chosen)} of {len(used)} latents ({int(used.sum())} are active), each from -3 to 3 by steps of 0.6\n"
        "the others: posterior mean of the first held-out image (left: number and KL in nats)"
    )
    return _tiles(rows, title, names)


@torch.inference_mode()
def code_traversals(model: VAE, image_shape: tuple[int, int, int], codes: torch.Tensor) -> Figure:
    """Traversals of an autoencoder, whose codes have no prior: one latent at a time, by falling variance of its codes.

    Each latent goes over three standard deviations of its codes on either side of their mean; the others stay at their
    mean.
    """
    mean, deviation = codes.mean(0), codes.std(0, correction=0)
    order = deviation.argsort(descending=True)[:TRAVERSED_LATENTS]
    steps = torch.linspace(-3.0, 3.0, TRAVERSAL_STEPS)
    rows = []
    for latent in order:
        latents = mean.repeat(len(steps), 1)
        latents[:, latent] += steps * deviation[latent]
        rows.append(_decode(model, latents, image_shape))
    names = [f"{int(latent)}: {deviation[latent]:.2f}" for latent in order]
    title = "Each latent over 3 standard deviations on either side of its mean (left: its number and deviation)"
    return _tiles(rows, title, names)


def kl_bars(posterior: Posterior) -> Figure:
    """KL of each latent, falling; the latents that are not active, in grey."""
    kl, used = posterior.kl.mean(0), active(posterior.mean)
    order = kl.argsort(descending=True)
    figure = Figure(figsize=(max(6.0, 0.22 * len(kl)), 4))
    axes = figure.subplots()
    colours = ["tab:blue" if used[latent] else "tab:gray" for latent in order]
    axes.bar([str(int(latent)) for latent in order], kl[order].numpy(), color=colours)
    axes.set(title=f"KL of each latent ({int(used.sum())} of {len(kl)} active)", xlabel="latent", ylabel="nats")
    axes.tick_params(axis="x", labelsize=7, rotation=90 if len(kl) > 30 else 0)
    return figure


@torch.inference_mode()
def samples(model: VAE, image_shape: tuple[int, int, int]) -> Figure:
    """Images decoded from latents of the prior."""
    noise = torch.Generator().manual_seed(PLOT_SEED)
    latents = torch.randn(COLUMNS * COLUMNS, model.latent_dim, generator=noise)
    images = _decode(model, latents, image_shape)
    return _tiles(list(images.reshape(COLUMNS, COLUMNS, *images.shape[1:])), "Samples from the prior")


@torch.inference_mode()
def latent_grid(model: VAE, image_shape: tuple[int, int, int]) -> Figure:
    """The decoded plane of a 2-D latent: equal steps of the prior's probability, so that every tile is as likely."""
    probability = (torch.arange(GRID_SIDE) + 0.5) / GRID_SIDE
    axis = torch.special.ndtri(probability)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")  # the second latent grows upwards
    images = _decode(model, torch.stack((first.flatten(), second.flatten()), 1), image_shape)
    rows = list(images.reshape(GRID_SIDE, GRID_SIDE, *images.shape[1:]))
    return _tiles(rows, "Decoded latent plane (right: first latent, up: second; steps of equal probability)")


def latent_scatter(means: torch.Tensor, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None) -> Figure:
    """Posterior means of held-out images, coloured by label; the first two principal components if there are more."""
    names = ("first latent", "second latent")
    if means.shape[1] > 2:
        centred = means - means.mean(0)
        means = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        names = ("first principal component", "second principal component")
    if means.shape[1] == 1:  # a single latent, or a single image, which has a single component
        means, names = torch.cat((means, torch.zeros_like(means)), 1), (names[0], "")
    figure = Figure(figsize=(7, 6))
    axes = figure.subplots()
    _scatter(axes, means.numpy(), labels, classes)
    axes.set(title="Posterior means of held-out images", xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", "datalim")  # or a latent that hardly varies would look as wide as the others
    return figure


def losses(rows: list[Metrics], *, autoencoder: bool = False) -> Figure:
    """Curves of the negative ELBO and its two terms; and of what was minimised, where that is something else.

    Args:
        rows: of metrics.jsonl.
        autoencoder: has no KL term, and so no ELBO.
    """
    curves = {
        "Negative ELBO": [
            (row["reconstruction"] + row["kl"], row["test_reconstruction"] + row["test_kl"]) for row in rows
        ],
        "Reconstruction": [(row["reconstruction"], row["test_reconstruction"]) for row in rows],
        "KL divergence": [(row["kl"], row["test_kl"]) for row in rows],
    }
    minimised = [(row["train_loss"], row["test_objective"]) for row in rows]
    if not np.allclose(minimised, curves["Negative ELBO"], rtol=SAME_LOSS, atol=SAME_LOSS):
        curves["What was minimised"] = minimised
    if autoencoder:
        curves = {"Reconstruction": curves["Reconstruction"]}
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(4 * len(curves), 4))
    for axes, (title, values) in zip(np.ravel(figure.subplots(1, len(curves))), curves.items(), strict=True):
        for part, curve in zip(("train", "test"), zip(*values, strict=True), strict=True):
            axes.plot(epochs, curve, label=part, marker="." if len(rows) < 30 else "")
        axes.set(title=title, xlabel="epoch", ylabel="nats per image")
        axes.legend()
    figure.tight_layout()
    return figure


def _scatter(
    axes: Axes, points: NDArray[np.float32], labels: NDArray[np.int64] | None, names: tuple[str, ...] | None
) -> None:
    """Points [N, 2], a colour per label."""
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=6)
        return
    classes = np.unique(labels)
    colours = mpl.colormaps["tab10" if len(classes) <= 10 else "turbo"].resampled(len(classes))
    for number, label in enumerate(classes):
        chosen = points[labels == label]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=6, color=colours(number), label=_name(label, names))
    if len(classes) <= LEGEND_CLASSES:
        axes.legend(title="label", markerscale=2, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the points


def _name(label: int, names: tuple[str, ...] | None) -> str:
    """The name of a label; -1 means no label. Matplotlib reads $ as mathematics and fails on what is not UTF-8."""
    name = names[label] if names and label >= 0 else str(label)
    return name.encode(errors="replace").decode().replace("$", r"\$")


@torch.inference_mode()
def _posterior(model: VAE, images: Images, dataset: Dataset) -> Posterior:
    parts = [model.encode(x) for x in ordered(images, dataset, CPU)]
    mean, log_var = (torch.cat(part) for part in zip(*parts, strict=True))
    return Posterior(mean, kl_per_latent(mean, log_var))


def _decode(model: VAE, latents: torch.Tensor, image_shape: tuple[int, int, int]) -> Pictures:
    """As tiles: few at a time, and no larger than they are shown."""
    parts = latents.split(evaluation_rows(math.prod(image_shape)))  # type: ignore[no-untyped-call]
    return torch.cat([_shrunk(model.decode(part).reshape(-1, *image_shape)) for part in parts]).numpy()


def _shrunk(images: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, W] whose longer side is MAX_TILE_PIXELS at most, by the mean of what becomes a pixel."""
    height, width = images.shape[2:]
    share = MAX_TILE_PIXELS / max(height, width)
    if share >= 1.0:
        return images
    size = (max(1, round(share * height)), max(1, round(share * width)))
    return functional.adaptive_avg_pool2d(images, size)


def _tiles(rows: list[Pictures], title: str, names: list[str] | None = None) -> Figure:
    """Rows of images side by side, with a gap, as one picture; `names` stand left of the rows."""
    channels, height, width = rows[0].shape[1:]
    scale = max(1, -(-MIN_TILE_PIXELS // max(height, width)))
    gap = max(1, 4 // scale)
    columns = max(len(row) for row in rows)
    canvas = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    figure = Figure(figsize=(canvas.shape[1] * scale / DPI + 0.5, canvas.shape[0] * scale / DPI + 0.7))
    axes = figure.subplots()
    axes.imshow(canvas.squeeze(2) if channels == 1 else canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    for r, name in enumerate(names or []):
        axes.text(-2.0, r * (height + gap) + height / 2, name, ha="right", va="center", fontsize=8)
    return figure
