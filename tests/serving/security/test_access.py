"""What each method asks for."""

import pytest

from serving.edge.server import VAE_SERVICE
from serving.security.access import Scope, scope_of
from vaeport.v1 import vae_pb2


def test_every_method_of_the_typed_service_asks_for_infer() -> None:
    methods = [method.name for method in vae_pb2.DESCRIPTOR.services_by_name["VaeService"].methods]
    assert len(methods) >= 8
    assert {scope_of(f"/{VAE_SERVICE}/{name}") for name in methods} == {Scope.INFER}


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("/grpc.health.v1.Health/Check", None),
        ("/grpc.health.v1.Health/Watch", None),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Scope.INFER),
        ("/inference.GRPCInferenceService/ModelInfer", Scope.INFER),
        ("/inference.GRPCInferenceService/RepositoryIndex", Scope.INFER),
        ("/inference.GRPCInferenceService/SystemSharedMemoryRegister", Scope.INFER),  # refused to everybody
        ("/inference.GRPCInferenceService/RepositoryModelLoad", Scope.ADMIN),
        ("/inference.GRPCInferenceService/RepositoryModelUnload", Scope.ADMIN),
        ("/vaeport.v1.AdminService/Reload", Scope.ADMIN),
    ],
)
def test_a_method_asks_for_what_the_table_says(method: str, scope: Scope | None) -> None:
    assert scope_of(method) is scope


@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/ModelTrain",
        "/vaeport.v2.VaeService/Encode",
        "/vaeport.v1.VaeService.Other/Encode",
        "/grpc.health.v1.Healthy/Check",
        "/x",
        "x",
        "",
    ],
)
def test_what_is_not_in_the_table_asks_for_admin(method: str) -> None:
    assert scope_of(method) is Scope.ADMIN
