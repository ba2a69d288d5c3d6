"""The model in this process: `vaeport.load`. numpy in, numpy out; no server, no grpc, no torch."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport import golden, scoring
from vaeport._version import __version__
from vaeport.arrays import as_images, as_latents, to_float
from vaeport.errors import InvalidInputError
from vaeport.graphs import Device, DeviceName, Graph, choose_device, load_graphs, names_in_precision
from vaeport.machine import usable_cores
from vaeport.manifest import MANIFEST_NAME
from vaeport.package import FP32, Package, open_package
from vaeport.prior import Draw
from vaeport.results import Encoding, ModelInfo, Scores, ServerInfo
from vaeport.versions import default_package

CHUNK_ROWS = 1024  # bounds the activations of one run; the results do not depend on it


def load(
    path: str | os.PathLike[str],
    *,
    device: DeviceName = "cpu",
    threads: int = 0,
    precision: str = FP32,
    self_test: bool = False,
) -> "Model":
    """Open a package and check its digests and graphs.

    Args:
        path: a package, `models/<name>/<version>`, or `models/<name>` for its default version, the newest
            or the one that is pinned.
        device: "cpu", "cuda", or "auto" for CUDA where it can compute.
        threads: CPU threads of one call; 0 means all the cores this process may use.
        precision: "fp32", or another that the package has: "fp16" is for CUDA, "int8" for the CPU.
        self_test: replay the package's golden vectors first, to see that this machine computes what was proven.

    Raises:
        InvalidInputError: a negative number of threads, or a precision that the package has not.
        PackageError: the folder breaks a rule of the format.
        DeviceError: ONNX Runtime is not installed, or the device cannot compute.
        SelfTestError: with `self_test`, an output is further off than its limit, or the package has no golden vectors.
    """
    if threads < 0:
        raise InvalidInputError.of("threads", expected="0 or more", got=threads)
    folder = Path(path)
    if folder.is_dir() and not (folder / MANIFEST_NAME).exists():
        folder = default_package(folder)
    package = open_package(folder)
    chosen = choose_device(device)
    names = names_in_precision(package.manifest, precision)
    graphs = load_graphs(package, chosen, threads or usable_cores(), names.values())
    if self_test:
        golden.self_test(package, graphs)
    return Model(package, {role: graphs[name] for role, name in names.items()}, chosen)


class Model:
    """The encoder and decoder of one package. Safe to use from several threads. Made by `vaeport.load`."""

    def __init__(self, package: Package, graphs: dict[str, Graph], device: Device) -> None:
        self._package = package
        self._graphs = graphs
        self._device = device
        self._scoring = scoring.ScoringSpec.of(package.manifest)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self._package.manifest.model.image_shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self._package.manifest.model.latent_dim

    def info(self) -> ServerInfo:
        """What this process offers: one model."""
        return ServerInfo(
            (model_info(self._package, self._device),), CHUNK_ROWS, __version__, self._package.manifest.name
        )

    def encode(self, images: ArrayLike) -> Encoding:
        """The posterior of each image.

        Args:
            images: [N, H, W], [N, C, H, W] or one image; uint8 (value / 255) or float in [0, 1].

        Raises:
            InvalidInputError: another shape or dtype, or values outside the range.
        """
        checked = as_images(images, self.image_shape)
        mean, log_var = (np.concatenate(parts) for parts in zip(*self._encode(checked), strict=True))
        return Encoding(mean, log_var, str(self._package.manifest.version))

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1].

        Args:
            latents: float [N, latent_dim] or one latent.

        Raises:
            InvalidInputError: another shape or dtype, or a value that is not finite.
        """
        return self._decode(as_latents(latents, self.latent_dim))

    def sample(
        self, count: int, *, seed: int | None = None, temperature: float = 1.0, first_row: int = 0
    ) -> NDArray[np.float32]:
        """Images from the prior: float32 [count, C, H, W] in [0, 1].

        Args:
            count: at least 1.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            temperature: standard deviation of the prior that is drawn from.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: a number outside its range.
        """
        draw = Draw.of(count, seed, first_row, temperature)
        return self._decode(draw.latents(self.latent_dim))

    def reconstruct(self, images: ArrayLike) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1]. Takes and raises what `encode` does."""
        return self._decode(self.encode(images).mean)

    def score(
        self, images: ArrayLike, *, importance_samples: int = 1, seed: int | None = None, first_row: int = 0
    ) -> Scores:
        """How well the model explains each image, in nats.

        Args:
            images: as in `encode`.
            importance_samples: draws of z for each image, 1 to 65,536; times latent_dim, at most 4,194,304.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: what `encode` raises, or a number outside its range.
        """
        checked = as_images(images, self.image_shape)
        sampling = scoring.Sampling.of(importance_samples, seed, first_row, len(checked))
        rows = sampling.images_at_once(self.latent_dim)
        return scoring.join(
            [
                self._score(to_float(checked[start : start + rows]), sampling.starting(start))
                for start in range(0, len(checked), rows)
            ]
        )

    def _score(self, images: NDArray[np.float32], sampling: scoring.Sampling) -> Scores:
        encoding = self.encode(images)
        draws = scoring.draw(encoding.mean, encoding.log_var, sampling)
        return scoring.scores(self._scoring, images, draws, self._densities(images, draws))

    def _densities(self, images: NDArray[np.float32], draws: scoring.Draws) -> Iterator[scoring.Doubles]:
        for start in range(0, len(draws.latents), CHUNK_ROWS):
            _, parameters = self._graphs["decoder"](draws.latents[start : start + CHUNK_ROWS])
            yield scoring.log_densities(self._scoring, images, start, draws.samples, parameters)

    def _encode(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        for start in range(0, len(images), CHUNK_ROWS):
            yield self._graphs["encoder"](to_float(images[start : start + CHUNK_ROWS]))

    def _decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        images = np.empty((len(latents), *self.image_shape), np.float32)
        for start in range(0, len(latents), CHUNK_ROWS):
            chunk = latents[start : start + CHUNK_ROWS]
            images[start : start + CHUNK_ROWS] = self._graphs["decoder"](chunk)[0]
        return images


def model_info(package: Package, device: Device) -> ModelInfo:
    """A package that computes on `device`, as `info()` shows it."""
    manifest = package.manifest
    return ModelInfo(
        name=manifest.name,
        version=str(manifest.version),
        image_shape=manifest.model.image_shape,
        latent_dim=manifest.model.latent_dim,
        likelihood=manifest.model.likelihood,
        digest=package.digest,
        providers=(device.provider,),
        preprocessing=manifest.preprocessing,
    )
