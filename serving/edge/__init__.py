"""The gRPC edge: services on a port, bytes to arrays and back, domain errors to statuses."""

from serving.edge.server import Edge, rows_of_a_message

__all__ = ["Edge", "rows_of_a_message"]
