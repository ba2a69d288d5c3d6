"""A model whose log-likelihood and posterior are known: x = W z + b + noise, z ~ N(0, I). Everything in float64."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.likelihood import Gaussian
from training.model import VAE
from training.networks import LinearEncoder, NetworkSpec, linear

PIXELS, LATENTS = 6, 2


def linear_gaussian(*, exact: bool) -> VAE:
    """A VAE of 6 pixels and 2 latents. W has orthogonal columns, so that the true posterior is diagonal, as q is.

    Args:
        exact: q(z|x) is the true posterior; else its means are off and its variances too large.
    """
    networks = linear(NetworkSpec((1, 1, PIXELS), LATENTS))
    likelihood = Gaussian("fixed", 0.5)
    model = VAE(PIXELS, latent_dim=LATENTS, networks=networks, likelihood=likelihood).double().eval()
    encoder, decoder = networks[0], networks[1].get_submodule("0")
    assert isinstance(encoder, LinearEncoder)
    assert isinstance(decoder, torch.nn.Linear)
    generator = torch.Generator().manual_seed(0)
    orthogonal, _ = torch.linalg.qr(torch.randn(PIXELS, LATENTS, dtype=torch.float64, generator=generator))
    with torch.no_grad():
        decoder.weight.copy_(orthogonal * torch.tensor([1.0, 0.6]))
        decoder.bias.copy_(0.1 * torch.randn(PIXELS, dtype=torch.float64, generator=generator))
        variance = likelihood.sigma**2
        posterior_variance = 1.0 / (1.0 + decoder.weight.square().sum(0) / variance)
        encoder.mean.weight.copy_(posterior_variance[:, None] * decoder.weight.T / variance)
        encoder.mean.bias.copy_(-encoder.mean.weight @ decoder.bias + (0.0 if exact else 0.3))
        encoder.log_var.copy_(posterior_variance.log() + (0.0 if exact else 0.4))
    return model


def images(count: int) -> Tensor:
    """[count, PIXELS], about as the model would draw them."""
    return 0.7 * torch.randn(count, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def exact_log_likelihood(model: VAE, x: Tensor) -> NDArray[np.float64]:
    """log N(x; b, W W^T + sigma^2 I) of each image, by its definition."""
    decoder = model.decoder.get_submodule("0")
    assert isinstance(decoder, torch.nn.Linear)
    assert isinstance(model.likelihood, Gaussian)
    weight = decoder.weight.detach().numpy()
    covariance = weight @ weight.T + model.likelihood.sigma**2 * np.eye(PIXELS)
    rest = x.numpy() - decoder.bias.detach().numpy()
    squares = np.einsum("ni,ij,nj->n", rest, np.linalg.inv(covariance), rest)
    exact: NDArray[np.float64] = -0.5 * (squares + np.linalg.slogdet(covariance)[1] + PIXELS * math.log(2 * math.pi))
    return exact
