"""The VAE: an encoder, a decoder and a likelihood under a thin wrapper. The loss is a function outside."""

import torch
from torch import Tensor, nn

from training.likelihood import Bernoulli, Likelihood
from training.networks import NetworkSpec, mlp
from training.objective import reparameterize


class VAE(nn.Module):
    """Without further arguments the reference network: 784-400-400-20 and back, 973,624 parameters.

    Args:
        input_dim: pixels of an image, all channels.
        hidden_dim: width of each of the two hidden layers on either side.
        latent_dim: number of latent dimensions.
        networks: encoder and decoder in place of the reference's; `training.networks` has them.
        likelihood: p(x|z); None is Bernoulli.
    """

    likelihood: Likelihood

    def __init__(
        self,
        input_dim: int = 784,
        hidden_dim: int = 400,
        latent_dim: int = 20,
        *,
        networks: tuple[nn.Module, nn.Module] | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.latent_dim = latent_dim
        self.encoder, self.decoder = networks or mlp(
            NetworkSpec((1, 1, input_dim), latent_dim, (hidden_dim, hidden_dim))
        )
        self.likelihood = likelihood or Bernoulli()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [batch, input_dim] or [batch, C, H, W], in [0, 1] -> (mu, log_var), both [batch, latent_dim]."""
        mu, log_var = self.encoder(x)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Latents [batch, latent_dim] -> images [batch, input_dim] in [0, 1]."""
        return self.likelihood.image(self.decoder(z))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one latent each, decode.

        Args:
            x: [batch, input_dim] or [batch, C, H, W], in [0, 1].
            generator: of the noise; None is torch's default one.

        Returns:
            x_recon [batch, input_dim] in [0, 1]; mu and log_var, both [batch, latent_dim].
        """
        mu, log_var = self.encode(x)
        return self.decode(reparameterize(mu, log_var, generator)), mu, log_var
