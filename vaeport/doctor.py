"""The checks behind `vaeport doctor`: what is installed, what this machine lets us have, a package, a server.

Each check is a function that looks at one thing and returns a Finding; it does not raise for what it looks for. The
server's doctor (`python -m serving doctor`) has these and its own.
"""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport._version import __version__
from vaeport.errors import DeviceError, VaeportError
from vaeport.findings import Finding, fail, ok, warn
from vaeport.machine import Limits, affinity, read_limits, total_memory

if TYPE_CHECKING:
    from vaeport.credentials import TLS

REQUIRED = ("numpy", "grpcio", "protobuf", "pillow")
IN_PROCESS = ("onnx", "onnxruntime", "onnxruntime-gpu")

# Each is a build of ONNX Runtime that installs the module `onnxruntime`.
RUNTIME_BUILDS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}  # health.proto, ServingStatus
MIN_MEMORY = 256 << 20  # bytes; ONNX Runtime and a small model take half of it

Installed = Mapping[str, str]
"""Versions of installed distributions by name, in lower case."""


def examine(
    package: Path | None, server: str | None, tls: "TLS | None" = None, token: str = "", precision: str = "fp32"
) -> Iterator[Finding]:
    """All findings, one at a time, since some take seconds.

    Args:
        package: the package to self-test, in `precision`.
        server: the server to ask, with `tls` and `token`.
    """
    installed = installed_distributions()
    yield versions(installed)
    yield runtime_builds(installed)
    yield device()
    yield cores(read_limits(), affinity())
    yield memory(read_limits(), total_memory())
    if package is not None:
        yield self_test(package, precision)
    if server is not None:
        yield from answers(server, tls, token)


def installed_distributions(path: Sequence[str] | None = None) -> Installed:
    """What pip would list for the folders in `path`, or for those that this Python imports from."""
    found = importlib.metadata.distributions(path=list(sys.path if path is None else path))
    named = ((each.name, each) for each in found)
    # What an uninstallation has left behind has no METADATA, and so no name, whatever the annotation says.
    return {name.lower(): each.version for name, each in named if name}


def versions(installed: Installed) -> Finding:
    """The versions of Python, vaeport and its dependencies."""
    text = ", ".join(
        [f"Python {platform.python_version()}", f"vaeport {__version__}"]
        + [f"{name} {installed[name]}" for name in (*REQUIRED, *IN_PROCESS) if name in installed]
    )
    if missing := [name for name in REQUIRED if name not in installed]:
        return fail("versions", f"{text}; missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok("versions", text)


def runtime_builds(installed: Installed, *, needed: bool = False) -> Finding:
    """Whether there is one build of ONNX Runtime: two overwrite each other's files, and removing one breaks the other.

    Args:
        installed: distributions.
        needed: whether ONNX Runtime is required; a client works without it.
    """
    builds = [name for name in RUNTIME_BUILDS if name in installed]
    if len(builds) > 1:
        cure = f"pip uninstall {' '.join(builds)}; then install one again: 'vaeport[cpu]' or 'vaeport[cuda]'"
        return fail("runtime", f"{' and '.join(builds)} overwrite each other's files", cure)
    if not builds:
        level = fail if needed else warn
        text = "no ONNX Runtime: a client works, computing in this process does not"
        return level("runtime", text, "pip install 'vaeport[cpu]' or 'vaeport[cuda]'")
    return ok("runtime", f"{builds[0]} {installed[builds[0]]}, the only build")


def device(requested: str = "auto") -> Finding:
    """Where graphs would compute and, if not on CUDA, why not.

    Having no GPU is fine; a GPU that cannot be used is worth a warning.
    """
    from vaeport.cuda import missing_for_cuda
    from vaeport.extras import import_onnxruntime

    try:
        onnxruntime = import_onnxruntime()
    except VaeportError as error:
        return warn("device", f"nothing can compute here: {error}", "pip install 'vaeport[cpu]' or 'vaeport[cuda]'")
    if requested == "cpu":
        return ok("device", "CPU, as asked for")
    missing = missing_for_cuda(onnxruntime)
    if missing is None:
        return ok("device", f"CUDA {onnxruntime.cuda_version} computes")
    if requested == "cuda":
        return fail("device", f"CUDA cannot compute here: {missing.reason}", missing.cure)
    if missing.gpu:
        return warn("device", f"CPU, although a GPU seems to be here: {missing.reason}", missing.cure)
    return ok("device", f"CPU; no CUDA: {missing.reason}")


def cores(limits: Limits, affinity: int, threads: int = 0) -> Finding:
    """CPU time against threads: more threads than cores wait for each other, and a quota stops all of them at once.

    Args:
        limits: the limits of the cgroup.
        affinity: cores that the process may be scheduled on.
        threads: computing threads of all workers together; 0: as many as there are cores.
    """
    text = f"{affinity} by affinity, " + ("no quota" if limits.cores is None else f"a quota of {limits.cores:g}")
    usable = affinity if limits.cores is None else min(affinity, limits.cores)
    if usable < 1:
        cure = "give it one core at least: it now waits for the rest of each period"
        return warn("cores", f"{text}: less than one", cure)
    if threads > -(-usable // 1):
        return warn("cores", f"{text}, for {threads} threads", "fewer --workers or --threads, or more cores")
    return ok("cores", text)


def memory(limits: Limits, machine: int | None, needed: int = MIN_MEMORY) -> Finding:
    """Memory that may be used against memory that is needed.

    Args:
        limits: the limits of the cgroup.
        machine: bytes that the machine has; None if unknown.
        needed: bytes that will be needed.
    """
    known = [each for each in (machine, limits.memory) if each is not None]
    if not known:
        return ok("memory", f"unknown on this system; about {needed >> 20} MiB are needed")
    most = min(known)
    whose = "the machine's" if most == machine else "the cgroup's limit"
    text = f"{most >> 20} MiB, {whose}; about {needed >> 20} MiB are needed"
    if most < needed:
        return fail("memory", text, "more memory, or fewer --workers: the kernel kills what goes over a limit")
    if most < 1.25 * needed:
        return warn("memory", text, "leave a quarter more than that: large requests need room, too")
    return ok("memory", text)


def self_test(path: Path, precision: str = "fp32") -> Finding:
    """Open a package, checking all rules, and replay its golden vectors on the CPU of this machine."""
    from vaeport.manifest import MANIFEST_NAME
    from vaeport.versions import default_package

    name = f"package {path}"
    start = time.perf_counter()
    try:
        folder = default_package(path) if path.is_dir() and not (path / MANIFEST_NAME).exists() else path
        text, proven = _replay(folder, precision)
    except DeviceError as error:  # after the package was opened
        return fail(name, f"its files are as they should be, but {error}", "pip install 'vaeport[cpu]'")
    except VaeportError as error:
        return fail(name, str(error), "export or copy it again; python -m export verify says more")
    text = f"{text}, {time.perf_counter() - start:.2f} s"
    return ok(name, text) if proven else warn(name, f"{text}; no golden vectors", "export the run again")


def _replay(folder: Path, precision: str) -> tuple[str, bool]:
    """A description of the package, and whether it has golden vectors; raises what its rules raise."""
    from vaeport import golden
    from vaeport.graphs import choose_device, load_graphs, names_in_precision
    from vaeport.machine import usable_cores
    from vaeport.package import open_package

    package = open_package(folder)
    manifest = package.manifest
    names = names_in_precision(manifest, precision)
    graphs = load_graphs(package, choose_device("cpu"), usable_cores(), names.values())
    proven = golden.has_golden(package)
    if proven:
        golden.self_test(package, graphs)
    how = "computes what was proven" if proven else "loads"
    return f"{manifest.name} version {manifest.version} {how}, {package.digest[:19]}", proven


def answers(address: str, tls: "TLS | None" = None, token: str = "", timeout: float = 5.0) -> Iterator[Finding]:
    """Ask a server for its health, then for its models; each finding has the time that it took.

    Args:
        address: as vaeport.Client takes it.
        tls: None means plain text.
        token: for a server that demands one; health needs none.
        timeout: seconds for each request.
    """
    from vaeport.client import Client

    yield _timed(f"health of {address}", lambda: _health(address, tls, timeout))

    def info() -> str:
        with Client(address, timeout=timeout, retries=0, tls=tls or False, token=token) as client:
            there = client.info()
        models = ", ".join(f"{model.name} version {model.version}" for model in there.models)
        return f"vaeport {there.server_version} serves {models}"

    yield _timed(f"server {address}", info)


def _timed(name: str, ask: Callable[[], str]) -> Finding:
    start = time.perf_counter()
    try:
        text = ask()
    except (VaeportError, OSError) as error:  # OSError: a file of the TLS
        return fail(name, str(error), "is the address right, is it ready, does it want --tls, --ca or --token-file?")
    return ok(name, f"{text}, in {(time.perf_counter() - start) * 1000:.0f} ms")


def _health(address: str, tls: "TLS | None", timeout: float) -> str:
    """Ask grpc.health.v1 without its stubs, a dependency: the request is empty, and the answer is one number."""
    import grpc

    from vaeport.addresses import parse
    from vaeport.channel import credentials_of, options_of
    from vaeport.errors import UnavailableError
    from vaeport.statuses import error_of

    target = parse(address)
    options = options_of(target, tls, timeout)
    with (
        grpc.insecure_channel(target.uri, options)
        if tls is None
        else grpc.secure_channel(target.uri, credentials_of(tls), options)
    ) as channel:
        check = channel.unary_unary(HEALTH_CHECK, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = check(b"", timeout=timeout)
        except grpc.RpcError as error:
            raise error_of(error, address) from error
    status = HEALTH.get(answer[1] if answer[:1] == b"\x08" else 0, "UNKNOWN")  # field 1, a varint; absent is 0
    if status != "SERVING":
        raise UnavailableError(f"{address}: says {status}")
    return status
