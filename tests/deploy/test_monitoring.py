"""Dashboard and alerts ask for metrics, labels and values that a real server exposes."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, MatrixSelector, VectorSelector

from serving.metrics import catalogue
from tests.serving.metrics.reading import families
from tests.support import ROOT, ServerProcess
from tests.system.test_metrics import scrape

DASHBOARD = ROOT / "deploy" / "grafana" / "vaeport.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
OF_PROMETHEUS = {"instance", "job", "le"}
NOT_EVERYWHERE = (catalogue.CERTIFICATE, catalogue.DEVICE_MEMORY)  # TLS and a GPU

Series = dict[str, list[dict[str, str]]]


def expressions(node: Any) -> Iterator[str]:
    """All values of a key `expr`, wherever in it."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "expr")
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from expressions(item)


def without_variables(query: str) -> str:
    return query.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$model", ".*")


DASHBOARD_QUERIES = [without_variables(query) for query in expressions(json.loads(DASHBOARD.read_text()))]
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
QUERIES = [*DASHBOARD_QUERIES, *(rule["expr"] for rule in RULES)]


@pytest.fixture(scope="module")
def exposed(models: Path) -> Series:
    """Every series of a server, by name."""
    server = ServerProcess.start("--models", str(models), "--workers", "2", "--http-port", "0")
    found: Series = {}
    for family in families(scrape(server)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    server.kill()
    for spec in NOT_EVERYWHERE:
        found[spec.name] = [dict.fromkeys(spec.labels, "")]
    return found


def selectors(query: str) -> list[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, MatrixSelector):
            found.append(expression.vector_selector)
        elif isinstance(expression, VectorSelector):
            found.append(expression)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def groupings(query: str) -> set[str]:
    found: set[str] = set()

    def visit(expression: Any) -> None:
        if isinstance(expression, AggregateExpr) and expression.modifier is not None:
            found.update(expression.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_series_that_a_server_has(query: str, exposed: Series) -> None:
    asked = selectors(query)
    assert asked
    for selector in asked:
        assert selector.name in exposed
        labels = exposed[selector.name][0].keys()
        assert groupings(query) <= labels | OF_PROMETHEUS, query
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels | OF_PROMETHEUS, matcher.name
            values = {series.get(matcher.name, "") for series in exposed[selector.name]}
            if matcher.name == "code":  # most have not happened
                values |= grpc.StatusCode.__members__.keys()
            if matcher.name in labels:
                for pattern in alternatives(matcher.value):
                    assert any(re.fullmatch(pattern, value) for value in values), pattern


def alternatives(pattern: str) -> list[str]:
    """Those at the top of a pattern; what is in parentheses stays together."""
    return [pattern] if "(" in pattern else pattern.split("|")


def test_the_dashboard_shows_every_metric() -> None:
    text = " ".join(DASHBOARD_QUERIES)
    assert [spec.name for spec in catalogue.CATALOGUE if spec.name not in text] == []


def test_the_panels_of_the_dashboard_are_apart() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_itself_takes_the_rules_and_they_fire_for_what_they_are_about() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, which comes with Prometheus")
    for command in (["check", "rules", ALERTS.name], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=ALERTS.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (ALERTS.parent / "alerts.test.yml").read_text()
    assert [rule["alert"] for rule in RULES if rule["alert"] not in tested] == []
