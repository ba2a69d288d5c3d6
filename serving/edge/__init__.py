"""The gRPC edge: services on a port, bytes to arrays and back, domain errors to statuses."""

from serving.edge.server import Edge

__all__ = ["Edge"]
