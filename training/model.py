"""The networks: encoder and decoder are modules of their own under a thin wrapper, and neither draws random numbers."""

import torch
from torch import Tensor, nn

from training.objective import reparameterize


class Encoder(nn.Module):
    """Image to posterior: two ReLU layers, then one linear head each for the mean and the log-variance."""

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU()
        )
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.log_var = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, ...] with input_dim values a row -> mean and log_var, both [batch, latent_dim]."""
        hidden = self.body(x.flatten(1))
        return self.mean(hidden), self.log_var(hidden)


class Decoder(nn.Module):
    """Latent to logits of the pixels' Bernoulli probabilities: two ReLU layers, then a linear one."""

    def __init__(self, latent_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, z: Tensor) -> Tensor:
        """[batch, latent_dim] -> logits [batch, output_dim]."""
        logits: Tensor = self.body(z)
        return logits


class VAE(nn.Module):
    """The reference network: 784-400-400-20 and back, 973,624 parameters.

    Args:
        input_dim: pixels of an image, all channels.
        hidden_dim: width of each hidden layer.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, input_dim: int = 784, hidden_dim: int = 400, latent_dim: int = 20) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.latent_dim = latent_dim
        self.encoder = Encoder(input_dim, hidden_dim, latent_dim)
        self.decoder = Decoder(latent_dim, hidden_dim, input_dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [batch, input_dim] or [batch, C, H, W], in [0, 1] -> (mu, log_var), both [batch, latent_dim]."""
        mu, log_var = self.encoder(x)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Latents [batch, latent_dim] -> images [batch, input_dim] in [0, 1]."""
        return torch.sigmoid(self.decoder(z))

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
