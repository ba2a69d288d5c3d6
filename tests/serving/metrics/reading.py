"""Prometheus' text, read by its own parser."""

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""Values by name, then by labels, sorted."""


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), f"{sample.name}{labels} twice"
            found[sample.name][labels] = sample.value
    return found


def samples_of(registry: CollectorRegistry) -> Samples:
    return samples(generate_latest(registry).decode())


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of the values of that name which have these labels, and maybe others."""
    wanted = set(labels.items())
    return sum(number for key, number in found[name].items() if wanted <= set(key))


def histogram(found: Samples, name: str, **labels: str) -> dict[float, float]:
    """How many values are in each bucket, by its upper bound; without the empty ones."""
    buckets = {
        float(dict(key)["le"]): number
        for key, number in found[f"{name}_bucket"].items()
        if set(labels.items()) <= set(key)
    }
    bounds = sorted(buckets)
    below = [0.0, *(buckets[bound] for bound in bounds)]
    return {bound: buckets[bound] - less for bound, less in zip(bounds, below, strict=False) if buckets[bound] > less}
