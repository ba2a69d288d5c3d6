"""Likelihoods p(x|z): what the decoder's output means for a pixel, in nats, summed over the pixels of an image."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = math.log(2.0 * math.pi)
MIN_LOG_SIGMA = -6.0  # a sigma of 0.0025, below half a grey level of 255; the floor of Rybkin et al., arXiv 2006.13202
ANALYTIC_MEMORY = 20  # batches that the variance kept for evaluation remembers, about


class Bernoulli(nn.Module):
    """Each pixel is 1 with a probability of its own; the decoder's output are the logits."""

    name = "bernoulli"

    def negative_log_likelihood(self, x: Tensor, output: Tensor) -> Tensor:
        """-log p(x|z) of each image: binary cross-entropy.

        Grey pixels as targets give its expectation over images whose pixels are drawn with those probabilities.

        Args:
            x: [batch, ...], in [0, 1].
            output: logits, [..., batch, pixels].

        Returns:
            [..., batch], nats.
        """
        targets = x.flatten(1).expand_as(output)
        return F.binary_cross_entropy_with_logits(output, targets, reduction="none").sum(-1)

    def image(self, output: Tensor) -> Tensor:
        """The expected image in [0, 1]: the probabilities."""
        return torch.sigmoid(output)


class Gaussian(nn.Module):
    """Each pixel is normal around the decoder's output, with one variance for all pixels.

    Args:
        variance: "learned" is a parameter; "analytic" is the variance that is best for each batch while training, its
            mean squared error (Rybkin et al., "Simple and effective VAE training with calibrated decoders", arXiv
            2006.13202), of which a running mean is kept for evaluation; "fixed" stays.
        sigma: standard deviation to start from, in units of pixels in [0, 1].
    """

    name = "gaussian"
    log_sigma: Tensor
    batches: Tensor

    def __init__(self, variance: Literal["learned", "analytic", "fixed"] = "learned", sigma: float = 1.0) -> None:
        super().__init__()
        self.variance = variance
        log_sigma = torch.tensor(math.log(sigma))
        if variance == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)
        if variance == "analytic":
            self.register_buffer("batches", torch.zeros(()))

    @property
    def sigma(self) -> float:
        """The standard deviation of a pixel."""
        return math.exp(max(self.log_sigma.item(), MIN_LOG_SIGMA))

    def negative_log_likelihood(self, x: Tensor, output: Tensor) -> Tensor:
        """-log p(x|z) of each image, a density: it can be negative.

        Args:
            x: [batch, ...], in [0, 1].
            output: means, [..., batch, pixels].

        Returns:
            [..., batch], nats.
        """
        squared = (output - x.flatten(1)).square()
        # At least the floor, with a gradient below it too: a clamp's is 0 there, and what fell below would stay.
        log_sigma = self.log_sigma + (MIN_LOG_SIGMA - self.log_sigma).clamp(min=0.0).detach()
        if self.variance == "analytic" and self.training:
            log_sigma = 0.5 * squared.mean().log().clamp(min=2.0 * MIN_LOG_SIGMA)
            self._remember(log_sigma.detach())
        pixels = output.shape[-1]
        return 0.5 * squared.sum(-1) * (-2.0 * log_sigma).exp() + pixels * (log_sigma + 0.5 * LOG_2PI)

    def image(self, output: Tensor) -> Tensor:
        """The expected image, clipped to [0, 1]."""
        return output.clamp(0.0, 1.0)

    def _remember(self, log_sigma: Tensor) -> None:
        """A plain mean at first, so that the start is forgotten; then one that moves."""
        self.batches += 1.0
        self.log_sigma += (log_sigma - self.log_sigma) / self.batches.clamp(max=ANALYTIC_MEMORY)


Likelihood = Bernoulli | Gaussian
