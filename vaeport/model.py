"""The model in this process: `vaeport.load`. numpy in, numpy out; no server, no grpc, no torch."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport import golden, scoring
from vaeport._version import __version__
from vaeport.arrays import as_latents, as_pixels, to_float
from vaeport.chunks import CHUNK_ROWS, Chunker, check_chunk_rows, chunks_of, join, read_chunk
from vaeport.errors import InvalidInputError
from vaeport.graphs import Device, DeviceName, Graph, choose_device, load_graphs, names_in_precision
from vaeport.inputs import Images, Pixels, read_images
from vaeport.interpolation import as_latent, check_steps, is_latent, latents_between, mean_of_one
from vaeport.machine import usable_cores
from vaeport.manifest import MANIFEST_NAME
from vaeport.package import FP32, Package, open_package
from vaeport.prior import Draw
from vaeport.results import Encoding, ModelInfo, Scores, ServerInfo
from vaeport.versions import default_package

RUN_ROWS = 1024  # bounds the activations of one run; the results do not depend on it


def load(
    path: str | os.PathLike[str],
    *,
    device: DeviceName = "cpu",
    threads: int = 0,
    precision: str = FP32,
    self_test: bool = False,
) -> "Model":
    """Open a package and check its digests and graphs.

    Load after a fork of the process, or with `threads=1`: the child lacks the model's threads, and hangs when it ends.

    Args:
        path: a package, `models/<name>/<version>`, or `models/<name>` for its default version, the newest
            or the pinned one.
        device: "cpu", "cuda", or "auto" for CUDA where it can compute.
        threads: CPU threads of one call; 0 means all the cores this process may use.
        precision: "fp32", or another that the package has: "fp16" is for CUDA, "int8" for the CPU.
        self_test: replay the package's golden vectors first, to see that this machine computes what was proven.

    Raises:
        InvalidInputError: a negative number of threads, or a precision that the package does not have.
        PackageError: the folder breaks a rule of the format.
        DeviceError: ONNX Runtime is not installed, or the device cannot compute.
        SelfTestError: with `self_test`, an output exceeds its limit, or the package has no golden vectors.
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
        self._info = model_info(package, device)
        self._graphs = graphs
        self._scoring = scoring.ScoringSpec.of(package.manifest)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self._info.image_shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self._info.latent_dim

    def info(self) -> ServerInfo:
        """What this process offers: one model."""
        return ServerInfo((self._info,), RUN_ROWS, __version__, self._info.name)

    def encode(self, images: Images | Iterator[Images]) -> Encoding:
        """The posterior of each image.

        Args:
            images: an array, [N, H, W], [N, C, H, W] or one image, uint8 (value / 255) or float in [0, 1]; a Pillow
                image or the path of a picture, which is prepared as in training; a list of these; or an iterator over
                them, of which a chunk is in memory at a time.

        Raises:
            InvalidInputError: a wrong shape or dtype, values outside the range, or a picture that cannot be prepared.
            OSError: a file cannot be opened.
        """
        if isinstance(images, Iterator):
            return join(list(self.encode_stream(images)))
        return self._encode(read_images(images, self._info))

    def encode_stream(self, images: Iterable[Images], *, chunk_rows: int = CHUNK_ROWS) -> Iterator[Encoding]:
        """The posteriors of a stream of images, in order, a chunk at a time.

        Args:
            images: each of them one image or several, as `encode` takes them.
            chunk_rows: images in a chunk, at least 1.

        Raises:
            InvalidInputError, OSError: as in `encode`, for the chunk that causes it, after the chunks before it.
        """
        return self._encode_stream(images, check_chunk_rows(chunk_rows))

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1].

        Args:
            latents: float [N, latent_dim] or one latent.

        Raises:
            InvalidInputError: a wrong shape or dtype, or a value that is not finite.
        """
        return self._decode(as_latents(latents, self.latent_dim))

    def sample(
        self, count: int, *, seed: SupportsIndex | None = None, temperature: float = 1.0, first_row: int = 0
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
        return self._fill(draw.count, self._samples(draw, RUN_ROWS))

    def sample_stream(
        self,
        count: int,
        *,
        seed: SupportsIndex | None = None,
        temperature: float = 1.0,
        first_row: int = 0,
        chunk_rows: int = CHUNK_ROWS,
    ) -> Iterator[NDArray[np.float32]]:
        """The images of `sample` in order, a chunk at a time: float32 [rows, C, H, W].

        Args:
            count: as in `sample`.
            seed: as in `sample`.
            temperature: as in `sample`.
            first_row: as in `sample`.
            chunk_rows: the most images in a chunk.

        Raises:
            InvalidInputError: a number outside its range.
        """
        return self._samples(Draw.of(count, seed, first_row, temperature), check_chunk_rows(chunk_rows))

    def reconstruct(self, images: Images) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1].

        Takes and raises what `encode` does, except that it takes no iterator.
        """
        return self._decode(self._encode(read_images(images, self._info)).mean)

    def interpolate(self, a: Images, b: Images, steps: int, *, spherical: bool = False) -> NDArray[np.float32]:
        """The images on the way from `a` to `b`: float32 [steps, C, H, W] in [0, 1].

        The first and the last are the reconstructions of `a` and `b`.

        Args:
            a: an image, as `encode` takes it, or a latent [latent_dim], which is an array of one axis.
            b: likewise.
            steps: images in all, at least 2, at equal distances between the two latents.
            spherical: along a great circle rather than straight.

        Raises:
            InvalidInputError: what `encode` and `decode` raise, several images, or fewer than two steps.
        """
        steps = check_steps(steps)
        start, end = self._latent_of("a", a), self._latent_of("b", b)
        start, end = as_latent("a", start, self.latent_dim), as_latent("b", end, self.latent_dim)
        return self._decode(latents_between(start, end, steps, spherical=spherical))

    def score(
        self, images: Images, *, importance_samples: int = 1, seed: SupportsIndex | None = None, first_row: int = 0
    ) -> Scores:
        """How well the model explains each image, in nats.

        Args:
            images: as in `encode`, but no iterator.
            importance_samples: draws of z for each image, 1 to 65,536; times latent_dim, at most 4,194,304.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: what `encode` raises, or a number outside its range.
        """
        checked = read_images(images, self._info)
        sampling = scoring.Sampling.of(importance_samples, seed, first_row, len(checked))
        rows = sampling.images_at_once(self.latent_dim)
        return scoring.join(
            [
                self._score(to_float(as_pixels(checked[start : start + rows])), sampling.starting(start))
                for start in range(0, len(checked), rows)
            ]
        )

    def _score(self, images: NDArray[np.float32], sampling: scoring.Sampling) -> Scores:
        encoding = self._encode(images)
        draws = scoring.draw(encoding.mean, encoding.log_var, sampling)
        return scoring.scores(self._scoring, images, draws, self._densities(images, draws))

    def _densities(self, images: NDArray[np.float32], draws: scoring.Draws) -> Iterator[scoring.Doubles]:
        for start in range(0, len(draws.latents), RUN_ROWS):
            parameters = self._graphs["decoder"](draws.latents[start : start + RUN_ROWS])[1]
            densities = scoring.log_densities(self._scoring, images, start, draws.samples, parameters)
            del parameters  # freed before the next run makes others
            yield densities

    def _encode(self, images: Pixels) -> Encoding:
        parts = [
            self._graphs["encoder"](to_float(as_pixels(images[start : start + RUN_ROWS])))
            for start in range(0, len(images), RUN_ROWS)
        ]
        mean, log_var = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Encoding(mean, log_var, self._info.version)

    def _encode_stream(self, images: Iterable[Images], chunk_rows: int) -> Iterator[Encoding]:
        for chunk in chunks_of(images, Chunker(self._info, chunk_rows)):
            yield self._encode(read_chunk(chunk, self._info))

    def _latent_of(self, name: str, end: Any) -> NDArray[Any]:
        return end if is_latent(end) else mean_of_one(name, self._encode(read_images(end, self._info)).mean)

    def _decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        chunks = (latents[start : start + RUN_ROWS] for start in range(0, len(latents), RUN_ROWS))
        return self._fill(len(latents), map(self._images, chunks))

    def _samples(self, draw: Draw, chunk_rows: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, draw.count, chunk_rows):
            rows = min(chunk_rows, draw.count - start)
            chunk = replace(draw, first_row=draw.first_row + start, count=rows)
            yield self._images(chunk.latents(self.latent_dim))

    def _fill(self, rows: int, chunks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The chunks as one array, each freed before the next is computed."""
        try:
            images, start = np.empty((rows, *self.image_shape), np.float32), 0
        except ValueError as error:  # numpy's word for more than an address can tell
            raise MemoryError(str(error)) from error
        for chunk in chunks:
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
        return images

    def _images(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._graphs["decoder"](latents)[0]


def model_info(package: Package, device: Device) -> ModelInfo:
    """What `info()` says of a package that computes on `device`."""
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
