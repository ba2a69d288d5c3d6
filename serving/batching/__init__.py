"""Dynamic batching: rows of many callers into batches, and each caller's own rows back."""

from serving.batching.batcher import Batcher, Turn
from serving.batching.delivery import Batched
from serving.batching.gate import Gate
from serving.batching.observer import Observer, Reason, Refusal, Run
from serving.batching.queue import Limits
from serving.batching.statistics import Duration, Statistics

__all__ = [
    "Batched",
    "Batcher",
    "Duration",
    "Gate",
    "Limits",
    "Observer",
    "Reason",
    "Refusal",
    "Run",
    "Statistics",
    "Turn",
]
