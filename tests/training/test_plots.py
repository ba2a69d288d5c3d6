"""What a run's pictures show, where one could draw something else."""

import torch

from training import VAE
from training.plots import TRAVERSAL_STEPS, Posterior, traversals


def test_active_latents_alone_are_traversed_through_0_by_falling_kl() -> None:
    mean = torch.zeros(10, 4)
    mean[:, 1], mean[:, 3] = torch.linspace(-1, 1, 10), torch.linspace(-2, 2, 10)
    kl = torch.tensor([0.0, 0.5, 0.0, 2.0]).expand(10, 4)
    (axes,) = traversals(VAE(16, 8, 4).eval(), (1, 4, 4), Posterior(mean, kl)).axes
    assert [text.get_text() for text in axes.texts] == ["3: 2.00", "1: 0.50"]
    assert "2 of 4 latents (2 are active)" in axes.get_title()
    assert torch.linspace(-3.0, 3.0, TRAVERSAL_STEPS).abs().min() < 1e-6


def test_where_no_latent_is_active_all_are_traversed() -> None:
    posterior = Posterior(torch.zeros(10, 3), torch.zeros(10, 3))
    (axes,) = traversals(VAE(16, 8, 3).eval(), (1, 4, 4), posterior).axes
    assert len(axes.texts) == 3
