"""Every network of the table becomes graphs that agree with PyTorch."""

import pytest
import torch

from export import parity
from export.graphs import roles, to_onnx
from export.ladder import climb
from tests.export.test_parity import subject_of
from training import VAE
from training.networks import NETWORKS, NetworkSpec


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_exports_and_agrees_with_pytorch(name: str) -> None:
    torch.manual_seed(0)
    networks = NETWORKS[name](NetworkSpec((1, 4, 4), latent_dim=3, hidden_dims=(8, 8)))
    for role in roles(VAE(16, latent_dim=3, networks=networks).eval(), (1, 4, 4)):
        parity.require(climb(subject_of(role, to_onnx(role)), None), "it is not to be written")
