"""What the methods of `Model` and `Client` return, the same from both."""

from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from vaeport.manifest import Preprocessing
from vaeport.prior import Draw


@dataclass(frozen=True, slots=True)
class Encoding:
    """The posteriors q(z|x) of a batch of images, diagonal Gaussians.

    Attributes:
        mean: float32 [rows, latent_dim]. The embedding of each image.
        log_var: float32 [rows, latent_dim], the logarithm of the variance.
        version: the version of the package that answered.
    """

    mean: NDArray[np.float32]
    log_var: NDArray[np.float32]
    version: str

    def sample(self, seed: SupportsIndex | None = None, *, first_row: int = 0) -> NDArray[np.float32]:
        """One draw from each posterior: float32 [rows, latent_dim], as the server's Encode draws with a seed.

        z = mean + exp(log_var / 2) epsilon, where row i of epsilon depends on the seed and first_row + i alone
        (vaeport.prior).

        Args:
            seed: 0 <= seed < 2^64; None draws one.
            first_row: the row of the first image, for encoding a large set in pieces.

        Raises:
            InvalidInputError: a number outside its range.
        """
        rows, latent_dim = self.mean.shape
        epsilon = Draw.of(rows, seed, first_row).latents(latent_dim)
        latents: NDArray[np.float32] = self.mean + np.exp(0.5 * self.log_var) * epsilon
        return latents


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a model explains some images, in nats; vaeport.scoring has the formulas.

    Attributes:
        reconstruction: float32 [rows], -E_q[log p(x|z)], estimated from the draws.
        kl: float32 [rows], KL(q(z|x) || p(z)).
        elbo: float32 [rows], -(reconstruction + kl), a lower bound on log p(x).
        log_likelihood: float32 [rows], the importance-weighted bound on log p(x), at least as tight in expectation.
        percentile: float32 [rows], 0 to 100: the share of the held-out images that the model explains less well; NaN
            for an image that cannot be compared with them, because it is grey and the model was trained on binary
            pixels; None if the package keeps no figures.
        setting: the kind of data, across which numbers cannot be compared: "binary" pixels, "grey" ones in at least one
            of the images, or "gaussian".
        seed: the seed of the draws.
        version: the version of the package that answered.
    """

    reconstruction: NDArray[np.float32]
    kl: NDArray[np.float32]
    elbo: NDArray[np.float32]
    log_likelihood: NDArray[np.float32]
    percentile: NDArray[np.float32] | None
    setting: str
    seed: int
    version: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model on offer.

    Attributes:
        name: its name.
        version: a positive integer as a decimal string.
        image_shape: (channels, height, width).
        latent_dim: the number of latent dimensions.
        likelihood: p(x|z), "bernoulli" or "gaussian".
        digest: "sha256:..." of the package's manifest, which holds the digests of all its files.
        providers: the ONNX Runtime execution providers that compute.
        preprocessing: how an image file becomes an input; None if the server does not say.
    """

    name: str
    version: str
    image_shape: tuple[int, int, int]
    latent_dim: int
    likelihood: str
    digest: str
    providers: tuple[str, ...]
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server, or this process, offers.

    Attributes:
        models: by name, then by version.
        max_request_rows: the most rows in one request; longer arrays are sent in pieces.
        server_version: the version of the software that computes.
        default_model: the model for requests that name none; "" if there is none.
    """

    models: tuple[ModelInfo, ...]
    max_request_rows: int
    server_version: str
    default_model: str
