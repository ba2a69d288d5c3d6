"""Dynamic batching: rows of many callers into batches, and each caller's own rows back."""

from serving.batching.batcher import Batcher, Turn
from serving.batching.delivery import Batched
from serving.batching.observer import Observer, Reason, Refusal, Run
from serving.batching.queue import Limits

__all__ = ["Batched", "Batcher", "Limits", "Observer", "Reason", "Refusal", "Run", "Turn"]
