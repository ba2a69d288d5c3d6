"""Training a variational autoencoder with PyTorch. `python -m training --help`.

Everything is in nats. Pixels and latent dimensions are summed, the batch is averaged. Importing this module does not
import PyTorch: that comes with the first of its names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.model import VAE
    from training.objective import kl_divergence, reparameterize, vae_loss

__all__ = ["VAE", "kl_divergence", "reparameterize", "vae_loss"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module("training.model" if name == "VAE" else "training.objective"), name)
    globals()[name] = value
    return value
