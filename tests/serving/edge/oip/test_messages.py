"""The messages: those of the protocol, and importable beside anybody else's copy of them."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from serving.edge.oip import grpc_service_pb2 as pb
from tests.support import ROOT

USE = """
from serving.edge.oip import grpc_service_pb2 as ours
from tritonclient.grpc import service_pb2 as theirs
import serving.worker
from vaeport.v1 import vae_pb2
sent = theirs.ModelInferRequest(model_name="m", raw_input_contents=[b"12"])
assert ours.ModelInferRequest.FromString(sent.SerializeToString()).raw_input_contents == [b"12"]
assert theirs.ModelInferRequest.FromString(ours.ModelInferRequest(id="i").SerializeToString()).id == "i"
assert vae_pb2.InfoRequest(model="m").SerializeToString()
"""


PARTS = {"inference.ModelInput", "inference.ModelOutput", "inference.ModelDynamicBatching"}  # what is filled here
ORDER = ("vaeport.client", "serving.worker", "tritonclient.grpc")


@pytest.mark.parametrize("order", [ORDER, ORDER[::-1]])
def test_one_process_imports_and_uses_library_server_and_tritonclient_in_both_orders(order: tuple[str, ...]) -> None:
    code = "\n".join(f"import {name}" for name in order) + USE
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def fields_of(file: FileDescriptor) -> dict[str, set[tuple[object, ...]]]:
    """By message, those nested in others too: all that decides about the bytes of its fields."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)  # type: ignore[no-untyped-call]
    found: dict[str, set[tuple[object, ...]]] = {}

    def collect(prefix: str, message: DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        found[name] = {(f.name, f.number, f.type, f.label, f.type_name) for f in message.field}
        for inner in message.nested_type:
            collect(name, inner)

    for message in proto.message_type:
        collect(proto.package, message)
    return found


def test_every_message_has_the_numbers_and_types_that_tritonclient_has() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = fields_of(service_pb2.DESCRIPTOR) | fields_of(model_config_pb2.DESCRIPTOR)
    ours = fields_of(pb.DESCRIPTOR)
    assert len(ours) > 70
    for name, fields in ours.items():
        assert fields <= theirs[name], name
        if not name.startswith("inference.ModelConfig") and name not in PARTS:
            assert fields == theirs[name], name
    assert list(pb.DataType.items()) == list(model_config_pb2.DataType.items())


def test_every_method_is_one_of_tritonclients_and_none_is_missing() -> None:
    from tritonclient.grpc import service_pb2

    def shape(service: object) -> set[tuple[str, str, str]]:
        return {(m.name, m.input_type.full_name, m.output_type.full_name) for m in service.methods}  # type: ignore[attr-defined]

    name = "GRPCInferenceService"
    assert shape(pb.DESCRIPTOR.services_by_name[name]) == shape(service_pb2.DESCRIPTOR.services_by_name[name])
