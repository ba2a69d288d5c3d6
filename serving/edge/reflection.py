"""Reflection of services whose descriptors lie in different pools."""

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection


def reflection_servicer(files: Iterable[FileDescriptor]) -> reflection.aio.ReflectionServicer:
    """A servicer that lists and describes every service in these files."""
    pool = DescriptorPool()
    names: list[str] = []
    for file in files:
        _add(file, pool)
        names += [service.full_name for service in file.services_by_name.values()]
    return reflection.aio.ReflectionServicer(names, pool)


def _add(file: FileDescriptor, pool: DescriptorPool) -> None:
    """Add a file after those it imports. Adding the same file twice does no harm."""
    for imported in file.dependencies:
        _add(imported, pool)
    pool.AddSerializedFile(file.serialized_pb)  # type: ignore[no-untyped-call]
