"""The objective: the negative evidence lower bound (ELBO) of Kingma and Welling, arXiv 1312.6114, in nats.

    -ELBO(x) = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I))

Pixels and latent dimensions are summed, the batch is averaged. Averaging one of them instead would change the model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reparameterize(mu: Tensor, log_var: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw z ~ N(mu, exp(log_var)) as mu + sigma * epsilon, so that gradients reach mu and log_var (ibid., 2.4).

    Args:
        mu, log_var: [batch, latent_dim]; log_var is log sigma^2.
        generator: of epsilon ~ N(0, I); None is torch's default one.

    Returns:
        z: [batch, latent_dim].
    """
    epsilon = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return mu + torch.exp(0.5 * log_var) * epsilon


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)) of each row, in nats, in closed form (ibid., appendix B).

    Args:
        mu, log_var: [batch, latent_dim].

    Returns:
        [batch], summed over the latent dimensions, never negative.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(dim=1)


def vae_loss(x: Tensor, x_recon: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """The negative ELBO from probabilities: binary cross-entropy plus KL divergence.

    This is the reference. Training uses its twin on logits, `negative_elbo`, which keeps its precision near 0 and 1.

    Args:
        x: targets in [0, 1], [batch, ...].
        x_recon: probabilities in [0, 1], as many values a row as x.
        mu, log_var: [batch, latent_dim].

    Returns:
        A scalar: nats per image, the mean over the batch.
    """
    cross_entropy = F.binary_cross_entropy(x_recon.flatten(1), x.flatten(1), reduction="none").sum(dim=1)
    return (cross_entropy + kl_divergence(mu, log_var)).mean()


def negative_elbo(x: Tensor, logits: Tensor, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of `vae_loss`, from logits.

    Args:
        x: targets in [0, 1], [batch, ...].
        logits: of the Bernoulli probabilities, as many values a row as x.
        mu, log_var: [batch, latent_dim].

    Returns:
        reconstruction, kl: scalars, nats per image, means over the batch. Their sum is the loss.
    """
    reconstruction = F.binary_cross_entropy_with_logits(logits.flatten(1), x.flatten(1), reduction="sum") / len(x)
    return reconstruction, kl_divergence(mu, log_var).mean()
