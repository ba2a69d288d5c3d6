"""The observers of a worker: metrics, traces, both, or none, which costs nothing."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.batching import Observer, Refusal, Run
from serving.metrics.room import MULTIPROCESS, has_room
from vaeport.results import ModelInfo, Scores

if TYPE_CHECKING:
    from serving.edge.observed import CallObserver
    from serving.metrics.recorder import Recorder
    from serving.models import ServedModel
    from serving.settings import Settings
    from serving.tracing import Tracer


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The observers of a worker."""

    recorder: "Recorder | None" = None
    tracer: "Tracer | None" = None

    @classmethod
    def of(cls, settings: "Settings") -> "Telemetry":
        """The observers that the settings ask for; others are not imported."""
        recorder, tracer = None, None
        if settings.http_port is not None and has_room(Path(os.environ[MULTIPROCESS]), os.getpid()):
            from serving.metrics.recorder import Recorder

            recorder = Recorder()
        if settings.traces:
            from serving.tracing import Tracer

            tracer = Tracer()
        return cls(recorder, tracer)

    def of_method(self, method: str) -> "list[CallObserver]":
        """The observers of a known method, "/package.Service/Method"; the one that counts comes last."""
        observers: list[CallObserver] = []
        if self.tracer is not None:
            observers.append(self.tracer.of_method(method))
        if self.recorder is not None:
            observers.append(self.recorder.of_method(method.removeprefix("/")))
        return observers

    def of_graph(self, model: str, graph: str, padded: Callable[[int], int] | None = None) -> Observer | None:
        """The observer of a graph's batcher; `padded` gives the rows that it computes for a batch, padding included."""
        counted = None if self.recorder is None else self.recorder.of_graph(model, graph, padded)
        traced = None if self.tracer is None else self.tracer.of_graph(model, graph)
        return _Both(counted, traced) if counted and traced else counted or traced

    def refused(self, cause: str) -> None:
        """Record a refused request, by one of the causes in serving.metrics.catalogue."""
        if self.recorder is not None:
            self.recorder.refused(cause)

    def scored(self, model: ModelInfo, scores: Scores) -> None:
        """Record the scores of some images."""
        if self.recorder is not None:
            self.recorder.scored(model, scores)

    def serving(
        self, models: "Sequence[ServedModel]", precision: str, not_after: Callable[[], float | None] = lambda: None
    ) -> None:
        """Record models that take requests from now on; `not_after` is when the certificate in use expires. Needs a
        running loop.
        """
        if self.recorder is not None:
            for model in models:
                self.recorder.served(model.info, precision)
            batchers = {(m.info.name, role): getattr(m, role) for m in models for role in ("encoder", "decoder")}
            self.recorder.keep_writing(batchers, not_after)

    def close(self) -> None:
        """Write and send what has not been written or sent yet."""
        if self.recorder is not None:
            self.recorder.write()
        if self.tracer is not None:
            self.tracer.close()


@dataclass(frozen=True, slots=True)
class _Both:
    """Two observers of a batcher; the notes are the second one's."""

    counted: Observer
    traced: Observer

    def arrived(self) -> object:
        return self.traced.arrived()

    def refused(self, cause: Refusal) -> None:
        self.counted.refused(cause)

    def computed(self, run: Run) -> None:
        self.counted.computed(run)
        self.traced.computed(run)


SILENT = Telemetry()
