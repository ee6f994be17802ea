"""Figures of the generators, asked of each at the moment of the scrape."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import httpx
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PATIENCE_SECONDS = 1.0
"""One that does not answer has no figures; its heartbeat tells whether it lives."""
_GAUGES = {
    "answers": ("weightsmith_generator_answers", "Answers that are being written or wait"),
    "waiting": ("weightsmith_generator_waiting", "Answers that wait for a slot"),
    "slots_used": ("weightsmith_generator_slots_used", "Slots of the caches that hold an answer"),
}


def figures_of(addresses: Sequence[str]) -> Iterator[Metric]:
    """Summed by host: a generator that starts anew has another port."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    with httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False) as http:
        for address in addresses:
            for name, value in _ask(http, address).items():
                sums[urlsplit(address).hostname or address][name] += value
    for name, (metric, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(metric, text, labels=["host"])
        for host, figures in sums.items():
            gauge.add_metric([host], figures[name])
        yield gauge
    tokens = CounterMetricFamily("weightsmith_generator_tokens", "Tokens written", labels=["host"])
    for host, figures in sums.items():
        tokens.add_metric([host], figures["tokens"])
    yield tokens


def _ask(http: httpx.Client, address: str) -> dict[str, float]:
    try:
        found = http.get(f"{address}/healthz").json()
    except (httpx.HTTPError, ValueError):
        return {}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
