"""vaeport: samples and embeddings of a variational autoencoder, from a server or in this process, without torch.

    model = vaeport.load("models/mnist/1")        # in this process; needs vaeport[cpu] or vaeport[cuda]
    client = vaeport.Client("localhost:50051")    # from a server; the same methods, results and errors
    client = vaeport.AsyncClient("localhost:50051")    # the same, awaited

Importing this module loads numpy at most: grpc comes with the first `Client`, ONNX Runtime with the first `load`.
"""

from typing import TYPE_CHECKING

from vaeport._version import __version__
from vaeport.errors import (
    DeadlineExceededError,
    DeviceError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PackageError,
    PermissionDeniedError,
    SelfTestError,
    ServerError,
    SignatureError,
    UnauthenticatedError,
    UnavailableError,
    VaeportError,
)

if TYPE_CHECKING:
    from vaeport.async_client import AsyncClient
    from vaeport.client import Client
    from vaeport.credentials import TLS
    from vaeport.manifest import Preprocessing
    from vaeport.model import Model, load
    from vaeport.results import Encoding, ModelInfo, Scores, ServerInfo

__all__ = [
    "TLS",
    "AsyncClient",
    "Client",
    "DeadlineExceededError",
    "DeviceError",
    "Encoding",
    "InternalError",
    "InvalidInputError",
    "Model",
    "ModelInfo",
    "NotFoundError",
    "OverloadedError",
    "PackageError",
    "PermissionDeniedError",
    "Preprocessing",
    "Scores",
    "SelfTestError",
    "ServerError",
    "ServerInfo",
    "SignatureError",
    "UnauthenticatedError",
    "UnavailableError",
    "VaeportError",
    "__version__",
    "load",
]

_HOME = {
    "AsyncClient": "vaeport.async_client",
    "Client": "vaeport.client",
    "Encoding": "vaeport.results",
    "Model": "vaeport.model",
    "ModelInfo": "vaeport.results",
    "Preprocessing": "vaeport.manifest",
    "Scores": "vaeport.results",
    "ServerInfo": "vaeport.results",
    "TLS": "vaeport.credentials",
    "load": "vaeport.model",
}


if not TYPE_CHECKING:  # otherwise type checkers accept every name

    def __getattr__(name: str) -> object:
        """Import heavy modules when they are first asked for (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module 'vaeport' has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
