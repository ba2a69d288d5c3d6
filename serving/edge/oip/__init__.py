"""The Open Inference Protocol v2, for tritonclient, KServe's client and any other client that speaks it."""

from serving.edge.oip.service import SERVICE, add_to_server
from serving.edge.oip.servicer import InferenceServicer

__all__ = ["SERVICE", "InferenceServicer", "add_to_server"]
