"""What docs/networks.md asks of a network, of all in the table."""

from typing import get_args, get_type_hints

import pytest
import torch

from training import VAE
from training.config import Config
from training.networks import NETWORKS, NetworkSpec

SPEC = NetworkSpec((3, 8, 4), latent_dim=5, hidden_dims=(12, 9))
PIXELS = 3 * 8 * 4


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 4, generator=torch.Generator().manual_seed(0))


def test_the_option_names_the_networks_of_the_table() -> None:
    assert set(get_args(get_type_hints(Config)["network"])) == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_shapes_of_the_contract(name: str) -> None:
    encoder, decoder = NETWORKS[name](SPEC)
    mean, log_var = encoder(images(7))
    assert mean.shape == log_var.shape == (7, 5)
    assert decoder(mean).shape == (7, PIXELS)


@pytest.mark.parametrize("name", NETWORKS)
def test_images_may_be_flat(name: str) -> None:
    model = VAE(PIXELS, latent_dim=5, networks=NETWORKS[name](SPEC))
    for shaped, flat in zip(model.encode(images(7)), model.encode(images(7).flatten(1)), strict=True):
        assert torch.equal(shaped, flat)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_draws_nothing_and_a_row_does_not_know_its_batch(name: str) -> None:
    model = VAE(PIXELS, latent_dim=5, networks=NETWORKS[name](SPEC)).double().eval()
    x = images(7).double()
    state = torch.get_rng_state()
    for together, alone in zip(model.encode(x), model.encode(x[3:4]), strict=True):
        torch.testing.assert_close(together[3:4], alone)
    z = model.encode(x)[0]
    torch.testing.assert_close(model.decode(z)[3:4], model.decode(z[3:4]))
    assert torch.equal(torch.get_rng_state(), state)
