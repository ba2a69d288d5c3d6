"""How well a model explains an image, in nats: what the server's Score and `Model.score` both compute.

    z_j = mean + exp(log_var / 2) epsilon_j,   j = 1 ... k
    reconstruction = -1/k sum_j log p(x|z_j)
    kl             = KL(q(z|x) || N(0, I)),    in closed form
    elbo           = -(reconstruction + kl)
    log_likelihood = log 1/k sum_j p(x|z_j) p(z_j) / q(z_j|x)

(Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", arXiv 1509.00519, equation 8.) epsilon of image i
and draw j is row (first_row + i) k + j of the seed's normals, so that a score does not depend on how the images came.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import InvalidInputError
from vaeport.manifest import Manifest
from vaeport.prior import Draw
from vaeport.results import Scores

MAX_LATENTS = 1 << 16  # of a request: images times draws
PERCENT = 100.0

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """What the scores of a model are made of.

    Attributes:
        likelihood, sigma: p(x|z); see ModelSpec.
        binarization: of the pixels that it was trained on; see Preprocessing.
        elbo_quantiles: of the held-out images, in nats, by level ("min", "0.01", ..., "max"); None without any.
        version: of the package.
    """

    likelihood: str
    sigma: float | None
    binarization: str
    elbo_quantiles: Mapping[str, float] | None
    version: str

    @classmethod
    def of(cls, manifest: Manifest) -> "ScoringSpec":
        """That of a package."""
        evaluation = manifest.training.get("evaluation") or {}
        return cls(
            manifest.model.likelihood,
            manifest.model.sigma,
            manifest.preprocessing.binarization,
            evaluation.get("elbo_quantiles"),
            str(manifest.version),
        )


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for some images.

    Attributes:
        samples: k.
        seed: of the normals.
        latents: float32 [images * k, latent_dim], the draws of an image one after the other.
        log_ratio: log p(z) - log q(z|x), [images * k].
        kl: [images].
    """

    samples: int
    seed: int
    latents: NDArray[np.float32]
    log_ratio: Doubles
    kl: Doubles


def check_samples(samples: int, images: int = 1) -> None:
    """Before the images are encoded.

    Raises:
        InvalidInputError: fewer than one draw for each image, or more than MAX_LATENTS for all.
    """
    if not 1 <= samples <= MAX_LATENTS // images:
        expected = f"1 to {MAX_LATENTS // images}" + (f" for {images} images" if images > 1 else "")
        raise InvalidInputError.of("importance_samples", expected=expected, got=samples)


def draw(
    mean: NDArray[np.float32], log_var: NDArray[np.float32], samples: int, seed: int | None, first_row: int
) -> Draws:
    """Latents from the posteriors of some images.

    Args:
        mean, log_var: [images, latent_dim].
        samples: for each image; see `check_samples`.
        seed: 0 <= seed < 2^64; None draws one.
        first_row: the index of the first image among all that have this seed.

    Raises:
        InvalidInputError: a number outside its range.
    """
    images, latent_dim = mean.shape
    rows = Draw.of(images * samples, seed, first_row * samples)
    epsilon = rows.latents(latent_dim).reshape(images, samples, latent_dim).astype(np.float64)
    center, width = mean.astype(np.float64)[:, None], np.exp(0.5 * log_var.astype(np.float64))[:, None]
    z = (center + width * epsilon).astype(np.float32)
    exact = z.astype(np.float64)
    # With the z that is decoded: log q(z|x) of it, not of the number before it was rounded.
    log_q = -0.5 * (((exact - center) / width) ** 2 + log_var[:, None]).sum(2)
    log_p = -0.5 * (exact**2).sum(2)
    variance, squared = np.exp(log_var.astype(np.float64)), mean.astype(np.float64) ** 2
    kl = 0.5 * (squared + variance - 1.0 - log_var).sum(1)
    return Draws(samples, rows.seed, z.reshape(-1, latent_dim), (log_p - log_q).reshape(-1), kl)


def log_density(spec: ScoringSpec, images: NDArray[np.float32], parameters: NDArray[np.float32]) -> Doubles:
    """log p(x|z) in nats, [rows], for the decoder's logits or means, each [rows, C, H, W] like the images."""
    x = images.reshape(len(images), -1).astype(np.float64)
    theta = parameters.reshape(len(parameters), -1).astype(np.float64)
    if spec.likelihood == "bernoulli":
        return np.asarray((x * theta - np.logaddexp(0.0, theta)).sum(1))
    assert spec.sigma is not None  # the reader's rule for a Gaussian likelihood
    return np.asarray(-0.5 * (((x - theta) / spec.sigma) ** 2 + math.log(2.0 * math.pi * spec.sigma**2)).sum(1))


def repeated(images: NDArray[np.float32], rows: slice, samples: int) -> NDArray[np.float32]:
    """The images of rows `rows` of `Draws.latents`."""
    found: NDArray[np.float32] = images[np.arange(rows.start, rows.stop) // samples]
    return found


def scores(spec: ScoringSpec, images: NDArray[np.float32], draws: Draws, densities: Iterable[Doubles]) -> Scores:
    """Put together what has been computed.

    Args:
        spec: of the model.
        images: float32 [images, C, H, W] in [0, 1].
        draws: their latents.
        densities: log p(x|z) of these, in pieces, in order.
    """
    log_p = np.concatenate(list(densities)).reshape(-1, draws.samples)
    log_weights = log_p + draws.log_ratio.reshape(log_p.shape)
    highest = log_weights.max(1)
    log_likelihood = highest + np.log(np.exp(log_weights - highest[:, None]).mean(1))
    reconstruction = -log_p.mean(1)
    elbo = -(reconstruction + draws.kl)
    setting = setting_of(spec, images)
    return Scores(
        reconstruction=reconstruction.astype(np.float32),
        kl=draws.kl.astype(np.float32),
        elbo=elbo.astype(np.float32),
        log_likelihood=log_likelihood.astype(np.float32),
        percentile=percentiles(spec, elbo, setting),
        setting=setting,
        seed=draws.seed,
        version=spec.version,
    )


def join(parts: Sequence[Scores]) -> Scores:
    """Scores of the pieces of a large array, in order, as those of the whole."""
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


def setting_of(spec: ScoringSpec, images: NDArray[np.float32]) -> str:
    """Which kind of numbers they are: "gaussian" densities, or "binary" or "grey" pixels under a Bernoulli."""
    if spec.likelihood == "gaussian":
        return "gaussian"
    return "binary" if np.isin(images, (0.0, 1.0)).all() else "grey"


def percentiles(spec: ScoringSpec, elbo: Doubles, setting: str) -> NDArray[np.float32] | None:
    """The share of the held-out images whose ELBO is lower, in percent, float32 [images]: near 0 is an anomaly.

    Interpolated between the quantiles that the package keeps. None where it keeps none, and for pixels that are grey
    where the model was trained on binary ones: their ELBOs do not compare.
    """
    kept = spec.elbo_quantiles
    if not kept or (setting == "grey" and spec.binarization != "none"):
        return None
    levels = sorted((0.0 if level == "min" else 1.0 if level == "max" else float(level), level) for level in kept)
    found = np.interp(elbo, [kept[name] for _, name in levels], [PERCENT * level for level, _ in levels])
    return found.astype(np.float32)
