"""Modules that the extras `vaeport[cpu]` and `vaeport[cuda]` bring; they are imported when they are needed first."""

import importlib
import os
from typing import Any

from vaeport.errors import DeviceError


def import_extra(module: str) -> Any:
    """A module, or a DeviceError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f"{module} is missing: pip install 'vaeport[cpu]' or 'vaeport[cuda]'") from error


def import_onnxruntime() -> Any:
    """ONNX Runtime, or a DeviceError that says how to get it.

    Its official Linux builds send events about models and sessions to Microsoft, unless this variable forbids it before
    the import (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). 0 allows it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = import_extra("onnxruntime")
    onnxruntime.set_default_logger_severity(3)  # its warnings repeat what our errors say
    return onnxruntime
