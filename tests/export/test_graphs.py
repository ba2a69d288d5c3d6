"""The graphs: dynamic, deterministic, without randomness and without traces of the machine they were made on."""

import getpass
import hashlib
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.graphs import Role, graph_spec, metadata_of, roles, to_onnx
from training import VAE
from vaeport.graph_rules import RANDOM_OPERATORS
from vaeport.graphs import choose_device, load_graph

SHAPE = (3, 4, 5)


@pytest.fixture(scope="module")
def made() -> list[tuple[Role, onnx.ModelProto]]:
    torch.manual_seed(0)
    return [(role, to_onnx(role)) for role in roles(VAE(60, 16, 7).eval(), SHAPE)]


def test_names_shapes_opset_and_ir(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    (_, encoder_proto), (_, decoder_proto) = made
    spec = graph_spec("encoder.onnx", encoder_proto)
    assert (spec.path, spec.opset, spec.ir_version) == ("encoder.onnx", 20, 10)
    assert [(t.name, t.dtype, t.shape) for t in spec.inputs] == [("image", "float32", ("batch", 3, 4, 5))]
    assert [(t.name, t.shape) for t in spec.outputs] == [("mean", ("batch", 7)), ("log_var", ("batch", 7))]
    spec = graph_spec("decoder.onnx", decoder_proto)
    assert [(t.name, t.shape) for t in spec.inputs] == [("latent", ("batch", 7))]
    assert [(t.name, t.shape) for t in spec.outputs] == [("image", ("batch", *SHAPE)), ("logits", ("batch", *SHAPE))]


def test_a_graph_is_one_file_without_random_operators(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    for _, proto in made:
        assert not any(initializer.data_location for initializer in proto.graph.initializer)
        assert not {node.op_type for node in proto.graph.node} & RANDOM_OPERATORS


def test_a_graph_holds_no_path_user_or_host_of_its_author(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    for _, proto in made:
        content = proto.SerializeToString()
        for trace in (
            str(Path(__file__).parents[2]),
            "site-packages",
            ".py",
            getpass.getuser() + "@",
            socket.gethostname(),
        ):
            assert trace.encode() not in content, trace


def test_exporting_twice_gives_the_same_bytes(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    for role, proto in made:
        assert to_onnx(role).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def test_a_graph_that_left_its_package_says_what_it_is(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    role, proto = made[0]
    metadata = metadata_of(role, 7, b"weights")
    said = {prop.key: prop.value for prop in to_onnx(role, metadata).metadata_props}
    assert said == metadata
    assert (said["vaeport.role"], said["vaeport.latent_dim"]) == ("encoder", "7")
    assert said["vaeport.checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert not proto.metadata_props


def test_images_stay_in_their_range_at_extreme_latents(made: list[tuple[Role, onnx.ModelProto]]) -> None:
    _, proto = made[1]
    spec = graph_spec("decoder.onnx", proto)
    graph = load_graph(Path(spec.path), proto.SerializeToString(), spec, choose_device("cpu"), 1)
    image, logits = graph(np.array([[s * 10.0**e] * 7 for e in range(7) for s in (1, -1)], np.float32))
    assert np.abs(logits).max() > 1000
    assert image.min() >= 0.0
    assert image.max() <= 1.0
