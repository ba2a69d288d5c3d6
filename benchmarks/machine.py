"""What a figure was measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "onnxruntime-gpu", "onnxruntime", "grpcio")


def describe_machine() -> str:
    """Processor, cores and versions, one line of Markdown."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores; Python {platform.python_version()}, {', '.join(versions)}\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
