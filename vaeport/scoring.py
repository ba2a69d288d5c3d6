"""How well a model explains an image, in nats: what the server's Score and `Model.score` both compute.

    z_j = mean + exp(log_var / 2) epsilon_j,   j = 1 ... k
    reconstruction = -1/k sum_j log p(x|z_j)
    kl             = KL(q(z|x) || N(0, I)),    in closed form
    elbo           = -(reconstruction + kl)
    log_likelihood = log 1/k sum_j p(x|z_j) p(z_j) / q(z_j|x)

(Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", arXiv 1509.00519, equation 8.) epsilon of image i
and draw j is row (first_row + i) k + j of the seed's normals, so that a score does not depend on how the images are
batched. Everything is in double precision except p(x|z), whose z is rounded to float32 for the decoder.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import InvalidInputError
from vaeport.manifest import Manifest, ModelSpec
from vaeport.package import quantile_level
from vaeport.prior import SEED_LIMIT, Draw, as_integer
from vaeport.results import Scores

MAX_LATENTS = 1 << 16  # of a request: images times draws
MAX_NORMALS = 1 << 22  # of a request: images times draws times latent_dim; 144 MiB while they are drawn
PIECE_PIXELS = 1 << 22  # pixels whose densities are computed at once, in at most 144 MiB
PERCENT = 100.0

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """What a model's scores depend on.

    Attributes:
        likelihood, sigma: p(x|z); see ModelSpec.
        binarization: how the training pixels were binarised; see Preprocessing.
        elbo_quantiles: ELBOs of the held-out images, in nats, by level ("min", "0.01", ..., "max"); None without any.
        version: the package's version.
    """

    likelihood: str
    sigma: float | None
    binarization: str
    elbo_quantiles: Mapping[str, float] | None
    version: str

    @classmethod
    def of(cls, manifest: Manifest) -> "ScoringSpec":
        """The spec of a package."""
        evaluation = manifest.training.get("evaluation") or {}
        return cls(
            manifest.model.likelihood,
            manifest.model.sigma,
            manifest.preprocessing.binarization,
            evaluation.get("elbo_quantiles"),
            str(manifest.version),
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to draw for each image, checked; the same checks in the server, in the client and in-process.

    Attributes:
        samples: k, at least 1.
        seed: 0 <= seed < 2^64.
        first_row: the index of the first image among all that have this seed.
    """

    samples: int
    seed: int
    first_row: int

    @classmethod
    def of(cls, importance_samples: int, seed: SupportsIndex | None, first_row: int, images: int) -> "Sampling":
        """Check the numbers for `images` images; a seed of None is drawn.

        Raises:
            InvalidInputError: a number is outside its range, or is not a number.
        """
        samples, first = as_integer("importance_samples", importance_samples), as_integer("first_row", first_row)
        if not 1 <= samples <= MAX_LATENTS:
            raise InvalidInputError.of("importance_samples", expected=f"1 to {MAX_LATENTS}", got=samples)
        last = SEED_LIMIT // samples - images
        if not 0 <= first <= last:
            expected = f"0 <= first_row <= {last}, with {samples} importance_samples"
            raise InvalidInputError.of("first_row", expected=expected, got=first)
        return cls(samples, Draw.of(images * samples, seed, first * samples).seed, first)

    def starting(self, image: int) -> "Sampling":
        """The sampling of the images from `image` on."""
        return replace(self, first_row=self.first_row + image)

    def images_at_once(self, latent_dim: int) -> int:
        """How many images one request may have, at least 1.

        Raises:
            InvalidInputError: not even one image fits.
        """
        most = max_latents(latent_dim)
        if self.samples > most:
            expected = f"1 to {most} with {latent_dim} latent dimensions"
            raise InvalidInputError.of("importance_samples", expected=expected, got=self.samples)
        return most // self.samples

    def check_request(self, images: int, latent_dim: int) -> None:
        """Raise InvalidInputError if `images` images are too many for one request."""
        if images > self.images_at_once(latent_dim):
            expected = f"at most {max_latents(latent_dim)} for all {images} images together"
            raise InvalidInputError.of("importance_samples", expected=expected, got=f"{self.samples} for each")


def max_latents(latent_dim: int) -> int:
    """The images times draws that one request may have."""
    return min(MAX_LATENTS, MAX_NORMALS // latent_dim)


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for some images.

    Attributes:
        samples: k.
        seed: the seed of the normals.
        latents: float32 [images * k, latent_dim], the draws of an image one after the other.
        log_ratio: log p(z) - log q(z|x), [images * k].
        kl: [images].
    """

    samples: int
    seed: int
    latents: NDArray[np.float32]
    log_ratio: Doubles
    kl: Doubles


def draw(mean: NDArray[np.float32], log_var: NDArray[np.float32], sampling: Sampling) -> Draws:
    """Latents from the posteriors of some images.

    Args:
        mean, log_var: [images, latent_dim].
        sampling: the sampling of these images.
    """
    images, latent_dim = mean.shape
    samples = sampling.samples
    rows = Draw.of(images * samples, sampling.seed, sampling.first_row * samples)
    epsilon = rows.latents(latent_dim).reshape(images, samples, latent_dim).astype(np.float64)
    center, log_variance = mean.astype(np.float64), log_var.astype(np.float64)
    z = center[:, None] + np.exp(0.5 * log_variance)[:, None] * epsilon
    # From epsilon, not from the rounded z: a posterior narrower than z's last digit would be lost.
    log_q = -0.5 * (epsilon**2 + log_variance[:, None]).sum(2)
    log_p = -0.5 * (z**2).sum(2)
    kl = kl_divergence(center, log_variance)
    latents = z.reshape(-1, latent_dim).astype(np.float32)
    return Draws(samples, sampling.seed, latents, (log_p - log_q).reshape(-1), kl)


def kl_divergence(mean: Doubles, log_var: Doubles) -> Doubles:
    """KL(N(mean, exp(log_var)) || N(0, I)) in nats, [rows], of posteriors [rows, latent_dim]."""
    return np.asarray(0.5 * (mean**2 + np.exp(log_var) - 1.0 - log_var).sum(1))


def log_densities(
    spec: ScoringSpec,
    images: NDArray[np.float32],
    first: int,
    samples: int,
    parameters: NDArray[np.float32],
) -> Doubles:
    """log p(x|z) in nats of some rows of `Draws.latents`, a few at a time, which bounds the memory.

    Args:
        spec: the model's spec.
        images: float32 [images, C, H, W] in [0, 1], all of them.
        first: the index of the first of these rows.
        samples: k.
        parameters: the decoder's logits or means for these rows, [rows, C, H, W].
    """
    step = max(1, PIECE_PIXELS // parameters[0].size)
    pieces = (slice(start, min(start + step, len(parameters))) for start in range(0, len(parameters), step))
    return np.concatenate(
        [
            log_density(spec, images[np.arange(first + rows.start, first + rows.stop) // samples], parameters[rows])
            for rows in pieces
        ]
    )


def log_density(
    spec: ScoringSpec | ModelSpec, images: NDArray[np.floating], parameters: NDArray[np.floating]
) -> Doubles:
    """log p(x|z) in nats, [rows], for the decoder's logits or means, each of the shape of the images, [rows, ...]."""
    x = images.reshape(len(images), -1).astype(np.float64)
    theta = parameters.reshape(len(parameters), -1).astype(np.float64)
    if spec.likelihood == "bernoulli":
        return np.asarray((x * theta - np.logaddexp(0.0, theta)).sum(1))
    assert spec.sigma is not None  # the reader's rule for a Gaussian likelihood
    return np.asarray(-0.5 * (((x - theta) / spec.sigma) ** 2 + math.log(2.0 * math.pi * spec.sigma**2)).sum(1))


def scores(spec: ScoringSpec, images: NDArray[np.float32], draws: Draws, densities: Iterable[Doubles]) -> Scores:
    """Put the scores together.

    Args:
        spec: the model's spec.
        images: float32 [images, C, H, W] in [0, 1].
        draws: their latents.
        densities: log p(x|z) of these latents, in pieces, in order.
    """
    log_p = np.concatenate(list(densities)).reshape(-1, draws.samples)
    log_weights = log_p + draws.log_ratio.reshape(log_p.shape)
    highest = log_weights.max(1)
    log_likelihood = highest + np.log(np.exp(log_weights - highest[:, None]).mean(1))
    reconstruction = -log_p.mean(1)
    elbo = -(reconstruction + draws.kl)
    grey = are_grey(spec, images)
    binary_or_grey = "grey" if grey.any() else "binary"
    return Scores(
        reconstruction=reconstruction.astype(np.float32),
        kl=draws.kl.astype(np.float32),
        elbo=elbo.astype(np.float32),
        log_likelihood=log_likelihood.astype(np.float32),
        percentile=percentiles(spec, elbo, grey),
        setting="gaussian" if spec.likelihood == "gaussian" else binary_or_grey,
        seed=draws.seed,
        version=spec.version,
    )


def join(parts: Sequence[Scores]) -> Scores:
    """Join the scores of the pieces of a large array, in order; the whole is grey if one piece is."""
    if len(parts) == 1:
        return parts[0]
    percentile = [part.percentile for part in parts if part.percentile is not None]
    return Scores(
        reconstruction=np.concatenate([part.reconstruction for part in parts]),
        kl=np.concatenate([part.kl for part in parts]),
        elbo=np.concatenate([part.elbo for part in parts]),
        log_likelihood=np.concatenate([part.log_likelihood for part in parts]),
        percentile=np.concatenate(percentile) if len(percentile) == len(parts) else None,
        setting="grey" if any(part.setting == "grey" for part in parts) else parts[0].setting,
        seed=parts[0].seed,
        version=parts[-1].version,
    )


def are_grey(spec: ScoringSpec, images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which images have a pixel that is neither 0 nor 1, [images]; none under a Gaussian, where it does not matter."""
    if spec.likelihood == "gaussian":
        return np.zeros(len(images), np.bool_)
    return np.asarray(~((images == 0.0) | (images == 1.0)).all((1, 2, 3)))


def percentiles(spec: ScoringSpec, elbo: Doubles, grey: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """The share of the held-out images whose ELBO is lower, in percent, float32 [images]: near 0 is an anomaly.

    Interpolated between the quantiles that the package keeps; None if it keeps none. NaN for a grey image if the model
    was trained on binary pixels: their ELBOs cannot be compared.
    """
    kept = spec.elbo_quantiles
    if not kept:
        return None
    levels = sorted((quantile_level(name), name) for name in kept)
    found = np.interp(elbo, [kept[name] for _, name in levels], [PERCENT * level for level, _ in levels])
    if spec.binarization != "none":
        found[grey] = np.nan
    return found.astype(np.float32)
