"""The parent of the workers: starts them, replaces them, ends them. It imports neither gRPC nor ONNX Runtime."""

from serving.supervisor.launch import launch
from serving.supervisor.supervisor import CrashLoopError, StartError

__all__ = ["CrashLoopError", "StartError", "launch"]
