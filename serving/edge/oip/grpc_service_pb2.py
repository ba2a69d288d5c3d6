"""The messages of protos/inference/grpc_service.proto, in a descriptor pool of their own.

Every client of the protocol registers its own copy of the package `inference` in protobuf's default pool, and a second
one there is an error at import. This one stays out of it, so that one process can hold a client and this server.
`make proto` writes the descriptors (grpc_service.binpb) and the types (grpc_service_pb2.pyi); this file takes the place
of the module that protoc would write.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_files = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files("serving.edge.oip").joinpath("grpc_service.binpb").read_bytes()
)
DESCRIPTOR = descriptor_pool.DescriptorPool().AddSerializedFile(_files.file[0].SerializeToString())

for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_enum)
    globals().update((value.name, value.number) for value in _enum.values)
