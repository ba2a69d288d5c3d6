"""Encoder and decoder networks. `NETWORKS` names them for `--network`; docs/networks.md shows how to add one.

Each is a function from a `NetworkSpec` to two modules: an encoder from images [batch, C, H, W] (or [batch, C * H * W])
to mean and log-variance, both [batch, latent_dim], and a decoder from latents [batch, latent_dim] to the likelihood's
parameters, [batch, C * H * W]. Neither draws random numbers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.errors import TrainingError

CHANNELS = (32, 64)  # of the two convolutions
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class NetworkError(TrainingError, ValueError):
    """A network that these images do not fit."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """What a network is built from.

    Attributes:
        image_shape: (channels, height, width).
        latent_dim: number of latent dimensions.
        hidden_dims: widths of hidden layers, from the image to the latent.
        activation: a key of ACTIVATIONS.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    hidden_dims: tuple[int, ...] = (400, 400)
    activation: str = "relu"


class Encoder(nn.Module):
    """A body, then one linear head each for the mean and the log-variance."""

    def __init__(self, body: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        self.body = body
        self.mean = nn.Linear(features, latent_dim)
        self.log_var = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, ...] -> mean and log_var, both [batch, latent_dim]."""
        hidden = self.body(x.flatten(1))
        return self.mean(hidden), self.log_var(hidden)


class LinearEncoder(nn.Module):
    """A linear mean, and one variance per latent for all images: what the posterior of probabilistic PCA is."""

    def __init__(self, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(input_dim, latent_dim)
        self.log_var = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, ...] -> mean and log_var, both [batch, latent_dim]."""
        mean = self.mean(x.flatten(1))
        return mean, self.log_var + torch.zeros_like(mean)  # one row each, not a view of the parameter


def mlp(spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
    """Fully connected, `hidden_dims` on the way in and reversed on the way out."""
    pixels = math.prod(spec.image_shape)
    widths = (pixels, *spec.hidden_dims)
    encoder = Encoder(nn.Sequential(*_layers(widths, spec.activation)), widths[-1], spec.latent_dim)
    reverse = (spec.latent_dim, *reversed(spec.hidden_dims))
    return encoder, nn.Sequential(*_layers(reverse, spec.activation), nn.Linear(reverse[-1], pixels))


def linear(spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
    """One linear map each way. With a Gaussian likelihood its optimum is probabilistic PCA (arXiv 1911.02469)."""
    pixels = math.prod(spec.image_shape)
    return LinearEncoder(pixels, spec.latent_dim), nn.Sequential(nn.Linear(spec.latent_dim, pixels))


def conv(spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
    """Two convolutions that halve height and width each, one fully connected layer of the last of `hidden_dims`.

    Raises:
        NetworkError: height or width is not divisible by 4.
    """
    channels, height, width = spec.image_shape
    if height % 4 or width % 4:
        raise NetworkError(f"--network conv: expected height and width divisible by 4, got {height}x{width}")
    first, second = CHANNELS
    small = (second, height // 4, width // 4)
    hidden = spec.hidden_dims[-1]
    body = nn.Sequential(
        nn.Unflatten(1, spec.image_shape),
        nn.Conv2d(channels, first, 4, stride=2, padding=1),
        ACTIVATIONS[spec.activation](),
        nn.Conv2d(first, second, 4, stride=2, padding=1),
        ACTIVATIONS[spec.activation](),
        nn.Flatten(),
        *_layers((math.prod(small), hidden), spec.activation),
    )
    decoder = nn.Sequential(
        *_layers((spec.latent_dim, hidden, math.prod(small)), spec.activation),
        nn.Unflatten(1, small),
        nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
        ACTIVATIONS[spec.activation](),
        nn.ConvTranspose2d(first, channels, 4, stride=2, padding=1),
        nn.Flatten(),
    )
    return Encoder(body, hidden, spec.latent_dim), decoder


NETWORKS: dict[str, Callable[[NetworkSpec], tuple[nn.Module, nn.Module]]] = {
    "mlp": mlp,
    "conv": conv,
    "linear": linear,
}


def glorot(model: nn.Module) -> None:
    """Glorot's uniform weights and zero biases, in place (as yburda/iwae starts, arXiv 1509.00519)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _layers(widths: Sequence[int], activation: str) -> Iterator[nn.Module]:
    for inputs, outputs in pairwise(widths):
        yield nn.Linear(inputs, outputs)
        yield ACTIVATIONS[activation]()
