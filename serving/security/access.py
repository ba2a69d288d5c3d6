"""The one table of the scope that each method needs. A method that is not in it needs admin."""

from enum import StrEnum
from functools import cache

OIP = "/inference.GRPCInferenceService/"


class Scope(StrEnum):
    """What a token allows. Neither scope includes the other."""

    INFER = "infer"
    ADMIN = "admin"


SCOPES: dict[str, Scope | None] = {
    # monitoring a server needs no secret, and reveals none
    "/grpc.health.v1.Health/": None,
    # what the models compute, and what they are
    "/vaeport.v1.VaeService/": Scope.INFER,
    "/grpc.reflection.v1.ServerReflection/": Scope.INFER,
    "/grpc.reflection.v1alpha.ServerReflection/": Scope.INFER,
    # the Open Inference Protocol: each method by name, since some of them change the server
    f"{OIP}ServerLive": Scope.INFER,
    f"{OIP}ServerReady": Scope.INFER,
    f"{OIP}ServerMetadata": Scope.INFER,
    f"{OIP}ModelReady": Scope.INFER,
    f"{OIP}ModelMetadata": Scope.INFER,
    f"{OIP}ModelConfig": Scope.INFER,
    f"{OIP}ModelStatistics": Scope.INFER,
    f"{OIP}ModelInfer": Scope.INFER,
    f"{OIP}ModelStreamInfer": Scope.INFER,
    f"{OIP}RepositoryIndex": Scope.INFER,
    # what is not offered here at all: nobody should need more rights to find that out
    f"{OIP}SystemSharedMemoryStatus": Scope.INFER,
    f"{OIP}SystemSharedMemoryRegister": Scope.INFER,
    f"{OIP}SystemSharedMemoryUnregister": Scope.INFER,
    f"{OIP}CudaSharedMemoryStatus": Scope.INFER,
    f"{OIP}CudaSharedMemoryRegister": Scope.INFER,
    f"{OIP}CudaSharedMemoryUnregister": Scope.INFER,
    f"{OIP}TraceSetting": Scope.INFER,
    f"{OIP}LogSettings": Scope.INFER,
    # what changes the server
    f"{OIP}RepositoryModelLoad": Scope.ADMIN,
    f"{OIP}RepositoryModelUnload": Scope.ADMIN,
    "/vaeport.v1.AdminService/": Scope.ADMIN,
}
"""Methods, `/service/Method`, and whole services, `/service/`. None means open to all."""


@cache  # the server has few methods
def scope_of(method: str) -> Scope | None:
    """The scope that a call of `/service/Method` needs; a method's own row takes precedence over its service's."""
    service = method[: method.rfind("/") + 1]
    return SCOPES.get(method, SCOPES.get(service, Scope.ADMIN))
