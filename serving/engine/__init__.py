"""The thread that computes, and how graphs are kept on a device."""

from serving.engine.bound import BoundGraph, ByDtype
from serving.engine.buckets import bucket_sizes
from serving.engine.engine import Engine
from serving.engine.failures import DeviceLostError
from serving.engine.placement import check_placement

__all__ = ["BoundGraph", "ByDtype", "DeviceLostError", "Engine", "bucket_sizes", "check_placement"]
