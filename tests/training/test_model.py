"""The reference network: its size, its shapes, and where its randomness comes from."""

import pytest
import torch

from training import VAE


def test_the_reference_network_has_its_973624_parameters() -> None:
    assert sum(p.numel() for p in VAE().parameters()) == 973_624


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28)])
def test_images_may_be_flat_or_not(shape: tuple[int, ...]) -> None:
    model = VAE()
    x = torch.rand(shape)
    mu, log_var = model.encode(x)
    x_recon, mu_again, _ = model(x)
    assert mu.shape == log_var.shape == (5, 20)
    assert torch.equal(mu, mu_again)
    assert x_recon.shape == (5, 784)
    assert model.decode(mu).shape == (5, 784)


def test_images_come_out_in_their_range() -> None:
    x = VAE().decode(100 * torch.randn(50, 20))
    assert x.min() >= 0
    assert x.max() <= 1


def test_decode_is_the_sigmoid_of_the_decoder_s_logits() -> None:
    model, z = VAE(), torch.randn(3, 20)
    assert torch.equal(model.decode(z), torch.sigmoid(model.decoder(z)))


def test_the_same_generator_gives_the_same_draw_and_the_global_one_is_left_alone() -> None:
    model, x = VAE(), torch.rand(4, 784)
    before = torch.get_rng_state()
    draws = [model(x, torch.Generator().manual_seed(1))[0] for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_rng_state())
