"""The thread that computes."""

from serving.engine.engine import Engine

__all__ = ["Engine"]
