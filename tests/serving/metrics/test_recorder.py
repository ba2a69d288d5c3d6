"""What a worker counts, as a scrape would see it."""

import asyncio
import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.batching import Reason, Refusal, Run
from serving.batching.delivery import Piece, Request
from serving.metrics.recorder import Recorder
from tests.serving.metrics.reading import Samples, histogram, samples_of, value
from tests.serving.toys import toy_model
from vaeport.results import ModelInfo, Scores

INFO = ModelInfo("digits", "3", (1, 8, 8), 5, "bernoulli", "sha256:77", ("CPUExecutionProvider",))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def recorder(registry: CollectorRegistry) -> Recorder:
    return Recorder(registry)


def written(recorder: Recorder, registry: CollectorRegistry) -> Samples:
    recorder.write()
    return samples_of(registry)


def scores(*percentiles: float) -> Scores:
    column = np.zeros(len(percentiles), np.float32)
    return Scores(column, column, column, column, np.array(percentiles, np.float32), "binary", 0, "3")


def test_calls_are_counted_by_method_and_status(recorder: Recorder, registry: CollectorRegistry) -> None:
    encode, score = recorder.of_method("s/Encode"), recorder.of_method("s/Score")
    for code, seconds in (("OK", 0.004), ("OK", 0.004), ("NOT_FOUND", 0.0004)):
        encode.began(None)
        encode.ended(None, code, seconds)
    score.began(None)
    for _ in range(2):  # writing twice counts nothing twice
        found = written(recorder, registry)
    assert value(found, "vaeport_calls_total", method="s/Encode", code="OK") == 2
    assert value(found, "vaeport_calls_total", method="s/Encode", code="NOT_FOUND") == 1
    assert found["vaeport_calls_total"][("code", "OK"), ("method", "s/Score")] == 0
    assert histogram(found, "vaeport_call_seconds", method="s/Encode") == {0.005: 2, 0.0005: 1}
    assert value(found, "vaeport_call_seconds_sum", method="s/Encode") == pytest.approx(0.0084)
    assert value(found, "vaeport_calls_in_flight") == 1


async def test_batches_are_counted_by_graph_and_reason(recorder: Recorder, registry: CollectorRegistry) -> None:
    graph = recorder.of_graph("digits", "encoder", padded=lambda rows: 8)

    def piece(arrived: float, start: int = 0) -> Piece:
        return Piece(
            Request(np.zeros((4, 2)), 4, arrived, math.inf, asyncio.get_running_loop().create_future()), start, 4
        )

    graph.computed(Run([piece(10.0), piece(10.8), piece(1.0, start=2)], 6, 8, Reason.FULL, 11.0, 0.02))
    graph.computed(Run([piece(10.0)], 2, 8, Reason.RETRY, 12.0, 0.01, failure="RuntimeError: no"))
    found = written(recorder, registry)
    labels = {"model": "digits", "graph": "encoder"}
    assert histogram(found, "vaeport_queue_seconds", **labels) == {1.0: 1, 0.25: 1}
    assert histogram(found, "vaeport_compute_seconds", **labels) == {0.025: 1, 0.01: 1}
    assert histogram(found, "vaeport_batch_rows", **labels) == {8.0: 1, 2.0: 1}
    assert histogram(found, "vaeport_batch_fill_ratio", **labels) == {0.8: 1, 0.3: 1}
    assert value(found, "vaeport_padding_rows_total", **labels) == 8
    assert value(found, "vaeport_batch_failures_total", **labels) == 1
    reasons = {key: count for key, count in found["vaeport_batches_total"].items() if count}
    assert [dict(key)["reason"] for key in reasons] == ["full", "retry"]


def test_refusals_are_counted_by_cause_and_unknown_causes_make_no_label(
    recorder: Recorder, registry: CollectorRegistry
) -> None:
    before = samples_of(registry)["vaeport_refusals_total"]
    recorder.of_graph("digits", "encoder").refused(Refusal.QUEUE_ROWS)
    recorder.refused("credentials")
    recorder.refused("something new")
    found = samples_of(registry)["vaeport_refusals_total"]
    assert {dict(key)["cause"] for key, count in found.items() if count} == {"queue_rows", "credentials", "other"}
    assert found.keys() == before.keys()


def test_scores_are_counted_by_their_percentile(recorder: Recorder, registry: CollectorRegistry) -> None:
    recorder.served(INFO, "fp32")
    recorder.scored(INFO, scores(0.0, 0.0, 40.0, 100.0, math.nan))
    found = written(recorder, registry)
    assert histogram(found, "vaeport_score_percentile_ratio", model="digits", version="3") == {0.0: 2, 0.5: 1, 1.0: 1}
    assert value(found, "vaeport_score_percentile_ratio_sum") == pytest.approx(1.4)
    assert value(found, "vaeport_scores_unranked_total") == 1


def test_scores_without_percentiles_are_unranked(recorder: Recorder, registry: CollectorRegistry) -> None:
    column = np.zeros(7, np.float32)
    recorder.scored(INFO, Scores(column, column, column, column, None, "binary", 0, "3"))
    found = written(recorder, registry)
    assert value(found, "vaeport_scores_unranked_total", model="digits") == 7
    assert value(found, "vaeport_score_percentile_ratio_count") == 0


def test_many_values_at_once_are_the_same_as_one_by_one(recorder: Recorder, registry: CollectorRegistry) -> None:
    values = [0.0, 0.005, 0.5, 0.50001, 0.99, 1.0, *np.random.default_rng(0).random(100).tolist()]
    for percentile in values:
        recorder.scored(INFO, scores(100 * percentile))
    one_by_one = samples_of(registry)
    other = CollectorRegistry()
    Recorder(other).scored(INFO, scores(*(100 * percentile for percentile in values)))
    for key, count in samples_of(other)["vaeport_score_percentile_ratio_bucket"].items():
        assert one_by_one["vaeport_score_percentile_ratio_bucket"][key] == count


def test_a_package_is_named_with_its_digest(recorder: Recorder, registry: CollectorRegistry) -> None:
    recorder.served(INFO, "fp16")
    labels = {"model": "digits", "version": "3", "digest": "sha256:77", "precision": "fp16"}
    found = samples_of(registry)
    assert value(found, "vaeport_package_info", **labels, provider="CPUExecutionProvider") == 1
    assert value(found, "vaeport_scores_unranked_total", model="digits", version="3") == 0


async def test_what_waits_is_seen(recorder: Recorder, registry: CollectorRegistry) -> None:
    go = asyncio.Event()

    async def wait(pieces: object) -> tuple[np.ndarray, ...]:
        await go.wait()
        return (np.zeros((1, 2)),)

    model = toy_model(encode=wait)
    first = asyncio.create_task(model.encoder.submit(np.zeros((1, 1, 2, 3), np.float32)))
    for _ in range(20):
        await asyncio.sleep(0)
    second = asyncio.create_task(model.encoder.submit(np.zeros((1, 1, 2, 3), np.float32)))
    await asyncio.sleep(0)
    recorder.keep_writing({("toy", "encoder"): model.encoder})
    found = samples_of(registry)
    assert value(found, "vaeport_queue_rows", model="toy", graph="encoder") == 1
    assert value(found, "vaeport_queue_bytes") == 24
    assert value(found, "vaeport_queue_limit_rows") == 4096
    go.set()
    await asyncio.gather(first, second)
    await model.encoder.close()
    await model.decoder.close()
