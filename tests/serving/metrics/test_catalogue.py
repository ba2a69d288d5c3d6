"""The catalogue agrees with the code that counts, and with the page that describes it."""

import re

from serving.batching import Reason, Refusal
from serving.metrics.catalogue import CATALOGUE, REASONS, REFUSALS, Spec
from tests.support import ROOT


def test_reasons_and_refusals_are_those_of_the_batcher() -> None:
    assert list(REASONS) == [reason.value for reason in Reason]
    assert list(REFUSALS[: len(Refusal)]) == [refusal.value for refusal in Refusal]


def test_names_follow_the_conventions_of_prometheus() -> None:
    for spec in CATALOGUE:
        assert re.fullmatch(r"vaeport_[a-z_]+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert bool(spec.buckets) == (spec.kind == "histogram"), spec.name
        assert list(spec.buckets) == sorted(set(spec.buckets)), spec.name
        assert not re.search(r"_(ms|milliseconds|percent|mb|kb)(_|$)", spec.name), spec.name


def test_the_page_describes_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(vaeport_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", page, re.MULTILINE)
    assert [(name, kind, labels.strip()) for name, kind, labels, _ in rows] == [
        (spec.name, spec.kind, ", ".join(f"`{label}`" for label in spec.labels)) for spec in CATALOGUE
    ]
    for spec, (_, _, _, text) in zip(CATALOGUE, rows, strict=True):
        assert text.startswith(spec.help), spec.name


def test_the_page_names_every_value_of_a_label() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for word in (*REASONS, *REFUSALS, *(value for spec in CATALOGUE for value in _values(spec))):
        assert f"`{word}`" in page, word


def _values(spec: Spec) -> tuple[str, ...]:
    from serving.metrics import catalogue

    lists = {
        catalogue.STARTS: catalogue.START_REASONS,
        catalogue.EXITS: catalogue.EXIT_CAUSES,
        catalogue.RELOADS: catalogue.RELOAD_RESULTS,
        catalogue.WORKERS: catalogue.WORKER_STATES,
    }
    return lists.get(spec, ())
