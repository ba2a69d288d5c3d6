"""The manifests: valid by Kubernetes' own schemas, and true of each other, of the server and of the image."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.flags import known, names, value
from tests.support import ROOT

KUBERNETES = ROOT / "deploy/kubernetes"
RUNTIME = ROOT / "deploy/kserve/servingruntime.yaml"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PATHS = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
QUEUE_METRIC = "vaeport_queue_rows"  # docs/metrics.md

# No schemas of Kubernetes itself: Kustomize reads one, the Prometheus Operator the other.
FOREIGN = {"kustomization.yaml", "servicemonitor.yaml"}

# What is used of KServe's CRD (serving.kserve.io_servingruntimes.yaml, v1alpha1), as published with KServe 0.17.
SERVING_RUNTIME: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1alpha1"},
        "kind": {"const": "ServingRuntime"},
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                "containers": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                "protocolVersions": {"type": "array", "items": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}},
                "supportedModelFormats": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "additionalProperties": False,
                        "properties": {
                            "autoSelect": {"type": "boolean"},
                            "name": {"type": "string"},
                            "priority": {"type": "integer", "minimum": 1},
                            "version": {"type": "string"},
                        },
                    },
                },
                "volumes": {"type": "array"},
            },
        },
    },
}


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(path.read_text())
    return value


OBJECTS = {path.name: read(path) for path in sorted(KUBERNETES.glob("*.yaml"))}
POD = OBJECTS["deployment.yaml"]["spec"]["template"]
LABELS = POD["metadata"]["labels"]
(SERVER,) = POD["spec"]["containers"]
PORTS = {port["name"]: port["containerPort"] for port in SERVER["ports"]}


@pytest.mark.parametrize("name", sorted(OBJECTS.keys() - FOREIGN))
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_each_manifest_is_what_kubernetes_takes(name: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = json.loads(json.dumps(OBJECTS["service.yaml"]))
    wrong["spec"]["clusterIp"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize(
    "arguments", [SERVER["args"], read(RUNTIME)["spec"]["containers"][0]["args"]], ids=["deployment", "kserve"]
)
def test_every_flag_is_a_setting(arguments: list[str]) -> None:
    assert len(names(arguments)) == len(arguments)
    assert set(names(arguments)) <= known()


def test_every_selector_selects_the_pods() -> None:
    selectors = [
        OBJECTS["deployment.yaml"]["spec"]["selector"]["matchLabels"],
        OBJECTS["service.yaml"]["spec"]["selector"],
        OBJECTS["poddisruptionbudget.yaml"]["spec"]["selector"]["matchLabels"],
        OBJECTS["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"],
        POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= LABELS.items() for selector in selectors)
    wanted = OBJECTS["servicemonitor.yaml"]["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= OBJECTS["service.yaml"]["metadata"]["labels"].items()


def test_ports_have_one_name_and_number_everywhere() -> None:
    service = {port["name"]: (port["port"], port["targetPort"]) for port in OBJECTS["service.yaml"]["spec"]["ports"]}
    assert service == {name: (number, name) for name, number in PORTS.items()}
    arguments = SERVER["args"]
    assert {"grpc": int(value(arguments, "--port")), "http": int(value(arguments, "--http-port"))} == PORTS
    allowed = [port["port"] for rule in OBJECTS["networkpolicy.yaml"]["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(allowed) == sorted(PORTS)
    (scraped,) = OBJECTS["servicemonitor.yaml"]["spec"]["endpoints"]
    assert (scraped["port"], scraped["path"]) == ("http", "/metrics")


def test_the_service_is_headless_so_that_clients_balance_calls() -> None:
    assert OBJECTS["service.yaml"]["spec"]["clusterIP"] == "None"


def test_probes_ask_for_what_the_server_answers() -> None:
    assert {probe: SERVER[probe]["httpGet"]["path"] for probe in PROBES} == PATHS
    assert {SERVER[probe]["httpGet"]["port"] for probe in PROBES} == {"http"}
    assert value(SERVER["args"], "--http-host") == "0.0.0.0"  # the node asks from outside


def test_there_is_more_time_to_stop_than_the_server_takes() -> None:
    needed = float(value(SERVER["args"], "--lame-duck-seconds")) + float(value(SERVER["args"], "--grace"))
    assert POD["spec"]["terminationGracePeriodSeconds"] > needed


def test_volumes_are_mounted_where_the_flags_say() -> None:
    mounts = {mount["name"]: mount for mount in SERVER["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["spec"]["volumes"]}
    for flag, volume in (("--models", "models"), ("--tls-cert", "tls"), ("--tls-key", "tls"), ("--tokens", "tokens")):
        assert value(SERVER["args"], flag).startswith(mounts[volume]["mountPath"])
    writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"tmp"}
    assert not any("subPath" in mount for mount in mounts.values())  # it would keep an old certificate


def test_the_pod_has_no_rights_that_it_does_not_need() -> None:
    pod, container = POD["spec"]["securityContext"], SERVER["securityContext"]
    assert pod["runAsNonRoot"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"]
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_the_pods_fit_in_their_memory() -> None:
    """As docs/operations.md counts: a worker, twice for a reload, and a full queue for each of its graphs."""
    from serving.doctor.models import WORKER_BYTES

    resources = SERVER["resources"]
    assert resources["limits"] == resources["requests"]
    limit = int(resources["limits"]["memory"].removesuffix("Mi")) << 20
    queues = 2 * int(value(SERVER["args"], "--max-queue-bytes"))
    assert int(resources["limits"]["cpu"]) * (2 * WORKER_BYTES + queues) < limit


def test_the_autoscaler_scales_the_deployment_by_rows_that_wait() -> None:
    spec = OBJECTS["horizontalpodautoscaler.yaml"]["spec"]
    target = OBJECTS["deployment.yaml"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert [metric["pods"]["metric"]["name"] for metric in spec["metrics"]] == [QUEUE_METRIC]
    assert "replicas" not in target["spec"]
    assert spec["minReplicas"] > OBJECTS["poddisruptionbudget.yaml"]["spec"]["maxUnavailable"]


def test_the_kustomization_names_every_manifest() -> None:
    listed = set(OBJECTS["kustomization.yaml"]["resources"])
    assert listed == OBJECTS.keys() - FOREIGN


def kustomize(folder: Path) -> dict[str, dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    command = ["kubectl", "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {each["kind"]: each for each in yaml.safe_load_all(built)}


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes-gpu"])
def test_what_kustomize_builds_is_what_kubernetes_takes(name: str) -> None:
    objects = kustomize(ROOT / "deploy" / name)
    assert len(objects) == len(OBJECTS.keys() - FOREIGN)
    for each in objects.values():
        kubernetes_validate.validate(each, "1.37", strict=True)


def test_the_overlay_asks_for_a_gpu_and_computes_there() -> None:
    pod = kustomize(ROOT / "deploy/kubernetes-gpu")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [*SERVER["args"], "--device=cuda"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-cuda")
    assert pod["volumes"][1]["secret"]["defaultMode"] == 0o440


def test_the_runtime_is_what_kserve_takes() -> None:
    runtime = read(RUNTIME)
    jsonschema.Draft202012Validator(SERVING_RUNTIME).validate(runtime)
    spec = {name: runtime["spec"][name] for name in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)


def test_the_runtime_has_one_port_which_kserve_takes_for_grpc() -> None:
    (container,) = read(RUNTIME)["spec"]["containers"]
    (port,) = container["ports"]
    assert container["name"] == "kserve-container"
    assert port["name"] == "h2c"
    assert port["containerPort"] == int(value(container["args"], "--port"))
    assert value(container["args"], "--models") == "/mnt/models"  # where KServe puts what storageUri names
    assert {probe: container[probe]["httpGet"]["path"] for probe in PROBES[1:]} == {p: PATHS[p] for p in PROBES[1:]}
    stop = float(value(container["args"], "--lame-duck-seconds")) + float(value(container["args"], "--grace"))
    assert stop < 30  # the default of Kubernetes, which KServe leaves as it is
