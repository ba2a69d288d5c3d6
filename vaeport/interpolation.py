"""The way from one latent to another: straight, or along a great circle."""

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import as_latents
from vaeport.errors import InvalidInputError
from vaeport.prior import as_integer

MIN_SINE = 1e-6  # of the angle; between latents that point the same or opposite ways there is no single great circle


def latents_between(
    a: NDArray[np.float32], b: NDArray[np.float32], steps: int, *, spherical: bool
) -> NDArray[np.float32]:
    """Latents at equal distances from `a` to `b`, both included.

    Args:
        a, b: float32 [latent_dim].
        steps: at least 2.
        spherical: along the great circle (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985), which
            keeps the length of latents near those of the prior; straight if there is no great circle.

    Returns:
        float32 [steps, latent_dim].
    """
    t = np.linspace(0.0, 1.0, steps)[:, np.newaxis]
    first, last = a.astype(np.float64), b.astype(np.float64)
    weights = _spherical(t, _angle(first, last)) if spherical else (1.0 - t, t)
    latents: NDArray[np.float32] = (weights[0] * first + weights[1] * last).astype(np.float32)
    latents[0], latents[-1] = a, b  # to the bit
    return latents


def check_steps(steps: int) -> int:
    """Raise InvalidInputError unless there are at least two steps."""
    steps = as_integer("steps", steps)
    if steps < 2:
        raise InvalidInputError.of("steps", expected="at least 2", got=steps)
    return steps


def is_latent(end: object) -> bool:
    """Whether one end of the way is a latent: an array of one axis, which no image is."""
    return isinstance(end, np.ndarray) and end.ndim == 1


def as_latent(name: str, end: NDArray[np.floating], latent_dim: int) -> NDArray[np.float32]:
    """A latent, float32 [latent_dim].

    Raises:
        InvalidInputError: a wrong length or dtype, or a value that is not finite.
    """
    try:
        latent: NDArray[np.float32] = as_latents(end, latent_dim)[0]
    except InvalidInputError as error:
        raise InvalidInputError(str(error).replace("latents", name, 1)) from None
    return latent


def mean_of_one(name: str, mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """The latent of an end that is an image: its posterior mean, [latent_dim] of [1, latent_dim].

    Raises:
        InvalidInputError: there are several images.
    """
    if len(mean) != 1:
        raise InvalidInputError.of(name, expected="one image, or one latent", got=f"{len(mean)} images")
    only: NDArray[np.float32] = mean[0]
    return only


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.arccos(np.clip(a @ b / lengths, -1.0, 1.0))) if lengths else 0.0


def _spherical(t: NDArray[np.float64], angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sine = np.sin(angle)
    if sine < MIN_SINE:
        return 1.0 - t, t
    return np.sin((1.0 - t) * angle) / sine, np.sin(t * angle) / sine
