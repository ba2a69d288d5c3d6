"""The log-likelihood of images under a trained model, estimated by importance sampling, in nats.

    log p(x) ~ log 1/S sum_s w_s,  w_s = p(x|z_s) p(z_s) / q(z_s|x),  z_s ~ q(z|x)      Burda et al., arXiv 1509.00519

In the mean the estimate is below the truth, and rises towards it with S. Images and samples are both batched, in blocks
whose size is bounded, so that memory grows with neither; docs/results/log-likelihood.md says what was tried for speed.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.likelihood import Bernoulli
from training.model import VAE
from training.objective import log_prior_over_posterior

# Pixels of a block. On a CPU its logits, 2 MiB in float32, stay in the cache between one operation and the next; a GPU
# needs tens of thousands of rows to be busy (128 MiB of logits).
BLOCK_PIXELS = {"cpu": 2**19, "cuda": 2**25}
FACTORS = 16  # of a product of values in [1/2, 1]: far from the smallest number of float32


@torch.inference_mode()
def log_likelihood(
    model: VAE,
    x: Tensor,
    samples: int,
    generator: torch.Generator,
    *,
    max_rows: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """The importance-weighted estimate of log p(x) of each image.

    The same model, images, samples, seed and `max_rows` give the same numbers on the same machine.

    Args:
        model: in eval mode.
        x: images, [batch, ...] in [0, 1], on the device of the model.
        samples: latents per image, S.
        generator: of the latents, on the same device.
        max_rows: latents that are decoded at a time; None: as many as BLOCK_PIXELS gives for this device.
        progress: is told the number of images each time some are done.

    Returns:
        [batch], float64, nats.

    Raises:
        ValueError: fewer than one sample or row.
    """
    rows = block_rows(model.input_dim, x.device) if max_rows is None else max_rows
    if samples < 1 or rows < 1:
        raise ValueError(f"expected at least 1 sample and 1 row, got {samples} and {rows}")
    if x.device.type == "cpu":
        model = _with_quick_tanh(model)
    images = max(1, rows // samples)  # all samples of several images, or some of one
    estimates = []
    for part in x.split(images):  # type: ignore[no-untyped-call]
        estimates.append(_log_mean_weight(model, part, samples, rows // len(part), generator))
        if progress:
            progress(len(part))
    return torch.cat(estimates)


def block_rows(pixels: int, device: torch.device) -> int:
    """Latents to decode at a time, for images of `pixels` pixels (all channels)."""
    return max(1, BLOCK_PIXELS.get(device.type, BLOCK_PIXELS["cuda"]) // pixels)


def _log_mean_weight(model: VAE, x: Tensor, samples: int, most: int, generator: torch.Generator) -> Tensor:
    """[batch] from at most `most` samples at a time, as evenly as can be: a running log-sum-exp in float64."""
    mu, log_var = model.encode(x)
    blocks = math.ceil(samples / most)
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for block in range(blocks):
        size = (samples + block) // blocks
        total = torch.logaddexp(total, _log_weights(model, x, mu, log_var, size, generator).double().logsumexp(0))
    return total - math.log(samples)


def _log_weights(
    model: VAE, x: Tensor, mu: Tensor, log_var: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x), [samples, batch]."""
    epsilon = torch.randn(samples, *mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    z = mu + torch.exp(0.5 * log_var) * epsilon
    output = model.decoder(z.flatten(0, 1)).view(samples, len(x), -1)
    if isinstance(model.likelihood, Bernoulli):
        log_likelihoods = bernoulli_log_likelihood(x, output)
    else:
        log_likelihoods = -model.likelihood.negative_log_likelihood(x, output)
    return log_likelihoods + log_prior_over_posterior(z, mu, log_var)


class QuickTanh(nn.Module):
    """tanh x = 2 sigmoid(2 x) - 1: on a CPU, PyTorch's sigmoid takes an eighth of the time of its tanh."""

    def forward(self, x: Tensor) -> Tensor:
        """tanh of `x`, without gradients. Exact to the rounding of numbers around 1, not to that of small results."""
        return x.mul(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _with_quick_tanh(model: VAE) -> VAE:
    """A model of the same modules, but for the tanh of its decoder."""
    if not isinstance(model.decoder, nn.Sequential):
        return model
    decoder = nn.Sequential(*(QuickTanh() if isinstance(layer, nn.Tanh) else layer for layer in model.decoder))
    networks = (model.encoder, decoder)
    return VAE(model.input_dim, latent_dim=model.latent_dim, networks=networks, likelihood=model.likelihood)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) of each image: `Bernoulli.negative_log_likelihood`, negated, in less time and without gradients.

    A pixel with logit l has x l - max(l, 0) + log sigmoid(|l|). The sigmoids of several pixels are multiplied before
    one logarithm is taken of them all: on a CPU, logarithms are what costs here.

    Args:
        x: [batch, ...], in [0, 1].
        logits: [..., batch, pixels].

    Returns:
        [..., batch], nats.
    """
    linear = logits.clamp(min=0).addcmul_(x.flatten(1), logits, value=-1).sum(-1)
    factors = math.gcd(FACTORS, logits.shape[-1])
    products = logits.abs().sigmoid_().view(*logits.shape[:-1], factors, -1).prod(-2)
    return products.log_().sum(-1) - linear
