"""The two functions of a VAE as ONNX graphs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from training.model import VAE
from vaeport.graph_rules import tensor_specs
from vaeport.manifest import GraphSpec
from vaeport.package import BATCH_AXIS, CHECKPOINT_PROPERTY

OPSET = 20
EXAMPLE_BATCH = 3  # 0 and 1 would be frozen into the graph; an odd prime shows up where it does not belong


class EncoderGraph(nn.Module):
    """image [batch, C, H, W] in [0, 1] -> mean, log_var, both [batch, latent_dim]."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        mean, log_var = self.encoder(image)
        return mean, log_var


class DecoderGraph(nn.Module):
    """latent [batch, latent_dim] -> image [batch, C, H, W] in [0, 1], and what p(x|z) is made of, of the same shape.

    That are the logits of a Bernoulli likelihood, or the means of a Gaussian one, which the image has clipped.
    """

    def __init__(self, model: VAE, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.likelihood = model.likelihood
        self.image_shape = image_shape

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        parameters = self.decoder(latent).reshape(-1, *self.image_shape)
        # ONNX Runtime's Sigmoid on the CPU overshoots 1 by about 1e-7 (microsoft/onnxruntime#22557).
        return self.likelihood.image(parameters).clamp(0.0, 1.0), parameters


@dataclass(frozen=True, slots=True)
class Role:
    """A graph to export: the module, and the names of its input and outputs."""

    name: str
    module: nn.Module
    input_name: str
    input_shape: tuple[int, ...]  # of a row
    output_names: tuple[str, ...]


def roles(model: VAE, image_shape: tuple[int, int, int]) -> tuple[Role, Role]:
    """Encoder and decoder of a model in eval mode."""
    encoder = Role("encoder", EncoderGraph(model).eval(), "image", image_shape, ("mean", "log_var"))
    parameters = "logits" if model.likelihood.name == "bernoulli" else "mean"
    decoder = Role(
        "decoder", DecoderGraph(model, image_shape).eval(), "latent", (model.latent_dim,), ("image", parameters)
    )
    return encoder, decoder


def to_onnx(role: Role, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """The role's module as one self-contained ONNX graph with a dynamic batch, free of traces of this machine.

    Args:
        role: what to export.
        metadata: what a graph that has left its package should still say about itself.
    """
    program = torch.onnx.export(
        role.module,
        (torch.zeros(EXAMPLE_BATCH, *role.input_shape),),
        dynamo=True,
        input_names=[role.input_name],
        output_names=list(role.output_names),
        dynamic_shapes=({0: BATCH_AXIS},),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # only with dynamo=False, or a file to write to
    proto = program.model_proto
    _strip(proto)
    onnx.helper.set_model_props(proto, dict(sorted((metadata or {}).items())))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def metadata_of(role: Role, latent_dim: int, checkpoint: bytes) -> dict[str, str]:
    """The properties of a graph: its role, its latent dimensions, and the sha256 of the checkpoint it came from.

    The package's name and version join them when it is published (export.package).
    """
    digest = hashlib.sha256(checkpoint).hexdigest()
    return {"vaeport.role": role.name, "vaeport.latent_dim": str(latent_dim), CHECKPOINT_PROPERTY: digest}


def graph_spec(path: str, proto: onnx.ModelProto) -> GraphSpec:
    """The entry in the manifest of a graph that lies at `path` in the package."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain == "")
    inputs, outputs = tensor_specs(proto.graph.input), tensor_specs(proto.graph.output)
    return GraphSpec(path, inputs, outputs, opset, proto.ir_version)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes about the author's machine: stack traces, paths, names of Python objects."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
