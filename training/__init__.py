"""Training a variational autoencoder with PyTorch. `python -m training --help`.

Everything is in nats. Pixels and latent dimensions are summed, the batch is averaged.
"""

from training.model import VAE
from training.objective import kl_divergence, reparameterize, vae_loss

__all__ = ["VAE", "kl_divergence", "reparameterize", "vae_loss"]
