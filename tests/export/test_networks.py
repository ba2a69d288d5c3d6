"""Every network of the table becomes graphs that agree with PyTorch, with every likelihood, in every precision."""

import pytest
import torch

from export import parity
from export.graphs import roles, to_onnx
from export.inputs import random_images, random_latents
from export.ladder import climb
from export.variants import module_of, variants
from tests.export.test_variants import subject_of
from training import VAE
from training.likelihood import Bernoulli, Gaussian, Likelihood
from training.networks import NETWORKS, NetworkSpec
from vaeport.package import PRECISIONS, has_bytes, role_of

SHAPE = (1, 4, 4)
LIKELIHOODS = {"bernoulli": Bernoulli, "gaussian": Gaussian}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_exports_and_agrees_with_pytorch(name: str, likelihood: str) -> None:
    torch.manual_seed(0)
    networks = NETWORKS[name](NetworkSpec(SHAPE, latent_dim=3, hidden_dims=(8, 8)))
    kind: Likelihood = LIKELIHOODS[likelihood]()
    parts = {r.name: r for r in roles(VAE(16, latent_dim=3, networks=networks, likelihood=kind).eval(), SHAPE)}
    plain = {role: to_onnx(part) for role, part in parts.items()}
    rows = {"encoder": random_images(SHAPE), "decoder": random_latents((3,))}
    for graph, proto in variants(plain, PRECISIONS, rows):
        if has_bytes(graph):  # tests/export/test_variants.py
            continue
        module = module_of(graph, parts[role_of(graph)].module)
        parity.require(climb(subject_of(graph, proto, module), None), "it is not to be written")
