"""The pictures of a package, which its card shows.

Samples and traversals are made from the weights alone; none of the data is in them. Reconstructions hold images of the
data, and a package may be given to strangers: they are made for those who ask (`--card-images`).
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from export.card import RECONSTRUCTIONS, SAMPLES, TRAVERSALS
from export.inputs import Rows
from training.data import binarize
from training.model import VAE
from training.objective import kl_per_latent
from vaeport.pictures import grid, labelled
from vaeport.prior import standard_normal

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 100_000  # a picture that would be larger gets fewer rows, and smaller tiles at last
TILE_PIXELS, SMALL_TILE_PIXELS = 56, 32  # of the longer side, at most
COLUMNS, ROWS = 8, 8
STEPS = np.linspace(-3.0, 3.0, 9, dtype=np.float32)  # of a traversal; the middle one is the prior's mean
SEED = 0
NOISE_SEED = 0  # of a dynamic binarisation


@dataclass(frozen=True, slots=True)
class Sheet:
    """Images in rows of equal length, with a name for each row or none: float32 [rows, columns, C, H, W] in [0, 1]."""

    images: Rows
    names: tuple[str, ...] = ()


def write_pictures(folder: Path, model: VAE, heldout: Rows, binarization: str, *, reconstructions: bool) -> None:
    """Write samples.png, traversals.png and, if asked for, reconstructions.png.

    Args:
        folder: the package to be.
        model: on the CPU, in eval mode.
        heldout: images [rows, C, H, W] in [0, 1], as the run keeps them. Unless their reconstructions are asked for,
            they only say how much each latent is used.
        binarization: what training did to them then.
        reconstructions: whether to write images of the data.
    """
    noise = torch.Generator().manual_seed(NOISE_SEED)
    seen = binarize(torch.from_numpy(heldout), binarization, noise).numpy()
    pictures = {SAMPLES: samples(model, seen.shape[1:]), TRAVERSALS: traversals(model, seen)}
    if reconstructions:
        pictures[RECONSTRUCTIONS] = reconstructed(model, seen)
    for name, sheet in pictures.items():
        (folder / name).write_bytes(png(sheet))


def samples(model: VAE, shape: tuple[int, ...]) -> Sheet:
    """What `vaeport.load(...).sample(ROWS * COLUMNS, seed=SEED)` gives, in reading order."""
    latents = standard_normal(SEED, 0, ROWS * COLUMNS, model.latent_dim)
    return Sheet(_decode(model, latents, shape).reshape(ROWS, COLUMNS, *shape))


@torch.inference_mode()
def traversals(model: VAE, images: Rows) -> Sheet:
    """One latent a row from -3 to 3, the others at 0: those with the largest KL on `images`, by falling KL."""
    kl = kl_per_latent(*model.encode(torch.from_numpy(images))).mean(0)
    order = kl.argsort(descending=True, stable=True)[:ROWS].tolist()
    latents = np.zeros((len(order), len(STEPS), model.latent_dim), np.float32)
    for row, latent in zip(latents, order, strict=True):
        row[:, latent] = STEPS
    decoded = _decode(model, latents.reshape(-1, model.latent_dim), images.shape[1:])
    names = tuple(f"{latent}: {kl[latent]:.2f}" for latent in order)
    return Sheet(decoded.reshape(*latents.shape[:2], *images.shape[1:]), names)


@torch.inference_mode()
def reconstructed(model: VAE, images: Rows) -> Sheet:
    """Rows of images, each above the row of their reconstructions from the posterior mean."""
    shown = images[: min(len(images), COLUMNS * ROWS // 2)]
    shown = shown[: max(1, len(shown) // COLUMNS) * COLUMNS]
    mean, _ = model.encode(torch.from_numpy(shown))
    restored = _decode(model, mean.numpy(), images.shape[1:])
    columns = min(COLUMNS, len(shown))
    pairs = [part.reshape(-1, 1, columns, *images.shape[1:]) for part in (shown, restored)]
    return Sheet(np.concatenate(pairs, 1).reshape(-1, columns, *images.shape[1:]), ("image", "again") * len(pairs[0]))


def png(sheet: Sheet) -> bytes:
    """A PNG of at most MAX_BYTES, without anything in it but the picture; rows at the end are left out if need be."""
    data = b""
    for tile, rows in ((TILE_PIXELS, ROWS), (TILE_PIXELS, 4), (TILE_PIXELS, 2), (SMALL_TILE_PIXELS, 2)):
        buffer = io.BytesIO()
        _draw(Sheet(sheet.images[:rows], sheet.names[:rows]), tile).save(buffer, "PNG", optimize=True)
        if len(data := buffer.getvalue()) <= MAX_BYTES:
            break
    return data


def _draw(sheet: Sheet, tile: int) -> "Image.Image":
    """The rows, with their names on the left."""
    height, width = sheet.images.shape[-2:]
    longer = max(height, width)
    scale = max(1, tile // longer) if longer <= tile else tile / longer
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    pictures = grid(sheet.images.reshape(-1, *sheet.images.shape[2:]), sheet.images.shape[1], size)
    return labelled(pictures, size, sheet.names)


@torch.inference_mode()
def _decode(model: VAE, latents: Rows, shape: tuple[int, ...]) -> Rows:
    return np.ascontiguousarray(model.decode(torch.from_numpy(latents)).reshape(-1, *shape).numpy())
