"""Values to messages and back, in tested pairs of pure functions, for the client and for the server's edge."""

from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from vaeport.errors import InvalidInputError
from vaeport.manifest import Preprocessing
from vaeport.results import ModelInfo
from vaeport.v1 import vae_pb2

# Little-endian by name, so that the bytes are right on any machine.
NUMPY_DTYPE: "dict[vae_pb2.DType.ValueType, np.dtype[np.generic]]" = {
    vae_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    vae_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    vae_pb2.DTYPE_UINT8: np.dtype("u1"),
}
WIRE_DTYPE = {dtype: number for number, dtype in NUMPY_DTYPE.items()}
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # trailing metadata of a refusal: when to retry (gRFC A6)
REQUEST_ID_KEY = "x-request-id"  # metadata of a call, and trailing metadata of its error: its id in the server's log
MAX_MESSAGE_BYTES = 2**31 - 1  # of protobuf, and of gRPC, whose limits are 32-bit integers
MAX_AXES = 8  # far above the four of an image batch; bounds the work on a hostile shape


def to_tensor(array: NDArray[np.generic]) -> vae_pb2.Tensor:
    """An array of one of the wire's dtypes as a Tensor, row-major."""
    return vae_pb2.Tensor(dtype=WIRE_DTYPE[array.dtype], shape=array.shape, data=array.tobytes())


def write(message: Message, tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """A serialised message with these arrays in its fields of type Tensor; the arrays are copied once.

    `to_tensor` and SerializeToString give the same message, with another order of fields, but copy four times.

    Raises:
        ValueError: over 2 GiB, which protobuf cannot hold.
    """
    parts: list[Any] = [message.SerializeToString()]
    for field, array in tensors.items():
        head = vae_pb2.Tensor(dtype=WIRE_DTYPE[array.dtype], shape=array.shape).SerializeToString()
        head += _length_delimited(vae_pb2.Tensor.DATA_FIELD_NUMBER, array.nbytes)
        number = message.DESCRIPTOR.fields_by_name[field].number
        parts += [_length_delimited(number, len(head) + array.nbytes), head, np.ascontiguousarray(array)]
    size = sum(part.nbytes if isinstance(part, np.ndarray) else len(part) for part in parts)
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, got {size}")
    return b"".join(parts)


def _length_delimited(number: int, size: int) -> bytes:
    """What precedes `size` bytes of a field (https://protobuf.dev/programming-guides/encoding/)."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def from_tensor(field: str, tensor: vae_pb2.Tensor) -> NDArray[np.generic]:
    """The array that a Tensor holds: a read-only view of its bytes, which protobuf copies out of the message.

    Args:
        field: the name of the tensor in its message, for the error.
        tensor: what came.

    Raises:
        InvalidInputError: unknown dtype, too many axes, an axis below 1, or a length that is not shape times dtype.
    """
    dtype = NUMPY_DTYPE.get(tensor.dtype)
    if dtype is None:
        names = [vae_pb2.DType.Name(number) for number in NUMPY_DTYPE]
        raise InvalidInputError.of(f"{field}.dtype", expected=" or ".join(names), got=dtype_name(tensor.dtype))
    shape = tuple(tensor.shape)
    if len(shape) > MAX_AXES:
        raise InvalidInputError.of(f"{field}.shape", expected=f"at most {MAX_AXES} axes", got=f"{len(shape)} axes")
    if min(shape, default=1) < 1:
        raise InvalidInputError.of(f"{field}.shape", expected="at least 1 row, and no axis below 1", got=list(shape))
    size = prod(shape) * dtype.itemsize  # Python integers: no overflow
    data = tensor.data  # read once: each access copies it out of the message
    if len(data) != size:
        expected = f"{size} bytes for shape {list(shape)} of {dtype.name}"
        raise InvalidInputError.of(f"{field}.data", expected=expected, got=f"{len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def dtype_name(number: "vae_pb2.DType.ValueType") -> str:
    """The name of a dtype's number, or the number if it has none."""
    return vae_pb2.DType.Name(number) if number in vae_pb2.DType.values() else str(number)  # enums are open in proto3


def to_model_info(model: ModelInfo) -> vae_pb2.ModelInfo:
    """A model as `Info` describes it."""
    return vae_pb2.ModelInfo(
        name=model.name,
        version=model.version,
        image_shape=model.image_shape,
        latent_dim=model.latent_dim,
        likelihood=model.likelihood,
        digest=model.digest,
        providers=model.providers,
        preprocessing=None if model.preprocessing is None else to_preprocessing(model.preprocessing),
    )


def to_preprocessing(preprocessing: Preprocessing) -> vae_pb2.Preprocessing:
    """A manifest's preprocessing as a message."""
    height, width = preprocessing.size
    return vae_pb2.Preprocessing(
        height=height,
        width=width,
        channels=preprocessing.channels,
        crop=preprocessing.crop,
        scale=preprocessing.scale,
        binarization=preprocessing.binarization,
    )


def from_preprocessing(message: vae_pb2.Preprocessing) -> Preprocessing:
    """A message as a manifest's preprocessing. Unknown words are only refused later, when a file is prepared."""
    return Preprocessing(
        size=(message.height, message.width),
        channels=message.channels,
        crop=cast("Any", message.crop),
        scale=message.scale,
        binarization=cast("Any", message.binarization),
    )
