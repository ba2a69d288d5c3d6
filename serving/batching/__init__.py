"""Dynamic batching: rows of many callers into batches, and each caller's own rows back."""

from serving.batching.batcher import Batched, Batcher

__all__ = ["Batched", "Batcher"]
