"""What training minimises, in nats: negative lower bounds of log p(x). docs/theory.md derives them.

    -ELBO(x)    = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I))                  Kingma and Welling, arXiv 1312.6114
    -IWAE_k(x)  = -E[log 1/k sum_i w_i],  w_i = p(x|z_i) p(z_i) / q(z_i|x)       Burda et al., arXiv 1509.00519

Pixels and latent dimensions are summed, the batch is averaged. Averaging one of them instead would change the model.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from training.model import VAE


def reparameterize(mu: Tensor, log_var: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw z ~ N(mu, exp(log_var)) as mu + sigma * epsilon, so that gradients reach mu and log_var (1312.6114, 2.4).

    Args:
        mu, log_var: [batch, latent_dim]; log_var is log sigma^2.
        generator: of epsilon ~ N(0, I); None is torch's default one.

    Returns:
        z: [batch, latent_dim].
    """
    epsilon = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return mu + torch.exp(0.5 * log_var) * epsilon


def kl_per_latent(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, 1)) of each row and latent, in nats, in closed form (1312.6114, appendix B).

    Args:
        mu, log_var: [batch, latent_dim].

    Returns:
        [batch, latent_dim], never negative.
    """
    return 0.5 * (mu.square() + torch.expm1(log_var) - log_var)  # exp(log_var) - 1 would round to below 0


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)) of each row, in nats: `kl_per_latent`, summed over the latent dimensions.

    Args:
        mu, log_var: [batch, latent_dim].

    Returns:
        [batch], never negative.
    """
    return kl_per_latent(mu, log_var).sum(dim=1)


def vae_loss(x: Tensor, x_recon: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """The negative ELBO from probabilities: binary cross-entropy plus KL divergence.

    This is the reference. Training uses its twin on logits, `Objective`, which keeps its precision near 0 and 1.

    Args:
        x: targets in [0, 1], [batch, ...].
        x_recon: probabilities in [0, 1], as many values a row as x.
        mu, log_var: [batch, latent_dim].

    Returns:
        A scalar: nats per image, the mean over the batch.
    """
    cross_entropy = F.binary_cross_entropy(x_recon.flatten(1), x.flatten(1), reduction="none").sum(dim=1)
    return (cross_entropy + kl_divergence(mu, log_var)).mean()


def log_prior_over_posterior(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log p(z) - log q(z|x) for the prior N(0, I) and the posterior N(mu, exp(log_var)).

    Args:
        z: [..., batch, latent_dim].
        mu, log_var: [batch, latent_dim].

    Returns:
        [..., batch], nats.
    """
    epsilon = (z - mu) * torch.exp(-0.5 * log_var)
    return 0.5 * (epsilon.square() + log_var - z.square()).sum(-1)


class Terms(NamedTuple):
    """Sums over a batch, in nats: what is minimised, E_q[-log p(x|z)], and the KL term with weight 1."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class Drawn(NamedTuple):
    """A batch's posteriors, the latents drawn from them, and what these explain.

    mu and log_var are [batch, latent_dim], z is [samples, batch, latent_dim], and reconstructions, -log p(x|z) in nats,
    are [samples, batch].
    """

    mu: Tensor
    log_var: Tensor
    z: Tensor
    reconstructions: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """What a step minimises.

    Attributes:
        bound: "elbo", "iwae", or "dreg": the bound of "iwae" with the doubly reparameterised gradient for the encoder
            (Tucker et al., arXiv 1810.04152), whose signal-to-noise ratio does not fall with the number of samples.
        samples: latents per image: k. The ELBO averages over them.
        autoencoder: the latent is the posterior mean, and there is no KL term.
        free_bits: nats per latent, lambda: the KL term is sum_j max(lambda, mean of KL_j over the batch)
            (Kingma et al., arXiv 1606.04934, appendix C.8).
        gamma: with a capacity C, the KL term is gamma |KL - C| (Burgess et al., arXiv 1804.03599).
    """

    bound: Literal["elbo", "iwae", "dreg"] = "elbo"
    samples: int = 1
    autoencoder: bool = False
    free_bits: float = 0.0
    gamma: float = 100.0

    def __call__(
        self,
        model: "VAE",
        x: Tensor,
        epsilon: Tensor,
        beta: Tensor | float = 1.0,
        capacity: Tensor | float | None = None,
    ) -> Terms:
        """The terms of a batch.

        Args:
            model: the VAE.
            x: images, [batch, ...] in [0, 1].
            epsilon: standard normal noise, [samples, batch, latent_dim]; not used by an autoencoder.
            beta: weight of the KL term; of log p(z) - log q(z|x) in the importance weights.
            capacity: C in nats; None: no capacity term.
        """
        return self.weigh(self.draw(model, x, epsilon), beta, capacity)

    def draw(self, model: "VAE", x: Tensor, epsilon: Tensor) -> Drawn:
        """What the terms are made of, and what costs the time; see `__call__` for the arguments."""
        mu, log_var = (part.to(x.dtype) for part in model.encode(x))  # under autocast bfloat16, as of the decoder
        z = mu[None] if self.autoencoder else mu + torch.exp(0.5 * log_var) * epsilon
        return Drawn(mu, log_var, z, _negative_log_likelihood(model, x, z))

    def weigh(self, drawn: Drawn, beta: Tensor | float = 1.0, capacity: Tensor | float | None = None) -> Terms:
        """The terms; see `__call__` for the arguments. With gradients and "dreg" once for each draw: it hooks on z."""
        mu, log_var, z, reconstructions = drawn
        reconstruction = reconstructions.mean(0).sum()
        if self.autoencoder:
            return Terms(reconstruction, reconstruction, torch.zeros_like(reconstruction))
        kls = kl_per_latent(mu, log_var)
        kl = kls.sum()
        if self.bound == "dreg" and z.requires_grad:
            return Terms(_dreg(drawn, beta), reconstruction, kl)
        if self.bound != "elbo":
            log_weights = beta * log_prior_over_posterior(z, mu, log_var) - reconstructions
            return Terms(-_log_mean_exp(log_weights).sum(), reconstruction, kl)
        if capacity is not None:
            return Terms(reconstruction + self.gamma * (kl - capacity * len(mu)).abs(), reconstruction, kl)
        charged = kls.mean(0).clamp(min=self.free_bits).sum() * len(mu) if self.free_bits else kl
        return Terms(reconstruction + beta * charged, reconstruction, kl)


def _dreg(drawn: Drawn, beta: Tensor | float) -> Tensor:
    """The same loss as "iwae"; its gradient reaches the encoder through z alone, by the squared weights.

    The decoder's gradient is sum_i w_i d log w_i, with normalised weights w_i. The hook multiplies what goes on to z,
    and so to the encoder, by another w_i; with prior and q weighted by beta, the same derivation gives
    1 - beta + beta w_i.
    """
    mu, log_var, z, reconstructions = drawn
    log_weights = beta * log_prior_over_posterior(z, mu.detach(), log_var.detach()) - reconstructions
    normalised = torch.softmax(log_weights, 0).detach()
    z.register_hook(lambda gradient: (1.0 - beta + beta * normalised)[..., None] * gradient)  # type: ignore[no-untyped-call]
    surrogate = -(normalised * log_weights).sum()
    bound = -_log_mean_exp(log_weights).sum()
    return surrogate + (bound - surrogate).detach()  # the value of the one, the gradient of the other


def _negative_log_likelihood(model: "VAE", x: Tensor, z: Tensor) -> Tensor:
    """[samples, batch] from latents [samples, batch, latent_dim]."""
    output = model.decoder(z.flatten(0, 1)).to(x.dtype)  # under autocast bfloat16, too coarse for sums over pixels
    return model.likelihood.negative_log_likelihood(x, output.view(*z.shape[:2], output.shape[-1]))


def _log_mean_exp(values: Tensor) -> Tensor:
    """Over the first axis."""
    return torch.logsumexp(values, 0) - math.log(len(values))
