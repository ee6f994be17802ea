"""Figures for Prometheus, and that what is drawn and alarmed about exists among them."""

import json
import logging
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from core.jobs import workers
from core.storage import Storage
from tests.apis import Api

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WORDS = {
    *("and", "or", "by", "le", "route", "status", "sum", "max", "min", "rate", "delta", "topk", "histogram_quantile"),
    *("state", "queue", "kind", "code", "stage", "outcome", "host", "version", "label_values", "job"),
}


def scraped(api: Api) -> dict[str, float]:
    """Every sample as `name{labels}`, after a streamed answer has been counted."""
    api.app.state.services.figures.count_first_byte("/v1/completions", 0.1)
    found = {}
    for family in text_string_to_metric_families(api.http.get("/metrics").text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_happens_is_counted(any_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = any_api.submit()["id"]
    any_api.claim()
    any_api.submit()
    with any_api.database.transaction() as session:
        slots = [{"device": "cpu", "job_id": waits}, {"device": "cpu", "job_id": None}]
        workers.beat(session, "w1", kind="train", host="box", pid=42, version="0.1.0", slots=slots)
        address = "http://127.0.0.1:1"  # nobody there: the scrape does without
        workers.beat(session, "g1", kind="generator", host="box", pid=43, version="0.1.0", address=address)
    found = scraped(any_api)
    assert found['weightsmith_jobs{state="validating"}'] == 2
    assert found['weightsmith_queue_depth{queue="light"}'] == 1
    assert found['weightsmith_queue_depth{queue="train"}'] == 0
    assert found['weightsmith_slots{state="used"}'] == found['weightsmith_slots{state="free"}'] == 1
    assert found['weightsmith_workers{kind="generator"}'] == 1
    assert 0 <= found["weightsmith_lease_age_seconds"] < 60
    assert found['weightsmith_attempts{outcome="open",stage="validating"}'] == 1
    assert found["weightsmith_storage_free_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 0
    assert not any(name.startswith("weightsmith_generator_tokens") for name in found)
    assert not any(waits in name or "_created" in name for name in found)

    def gone(_: Storage) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(Storage, "free_bytes", gone)
    assert "weightsmith_storage_free_bytes" not in scraped(any_api)


def test_dashboard_and_alerts_ask_for_what_exists(api: Api) -> None:
    api.http.get("/v1/jobs")
    known = {name.partition("{")[0] for name in scraped(api)}
    known |= {"weightsmith_jobs_failed", "weightsmith_attempts"}  # have no series before there is one
    known |= {f"weightsmith_generator_{name}" for name in ("answers", "waiting", "slots_used", "tokens_total")}
    queries = [*dashboard_queries(), *alert_queries()]
    assert len(queries) > 25
    for query in queries:
        bare = re.sub(r'"[^"]*"|\$\w+|\[\w+\]|\b\d[\w.]*', "", query)
        asked = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS
        assert asked <= known, query
        assert any(name in known for name in asked), query


def dashboard_queries() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "weightsmith.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["description"] for panel in panels)
    variables = [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    return variables + [target["expr"] for panel in panels for target in panel["targets"]]


def alert_queries() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_generators_are_asked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from api import generator_figures

    def answer(_: object, address: str) -> dict[str, float]:
        return {"answers": 3, "waiting": 1, "slots_used": 2, "tokens": 100}

    monkeypatch.setattr(generator_figures, "_ask", answer)
    families = generator_figures.figures_of(["http://box:1", "http://box:2", "http://other:1"])
    samples = {(one.name, one.labels["host"]): one.value for family in families for one in family.samples}
    assert samples["weightsmith_generator_tokens_total", "box"] == 200
    assert samples["weightsmith_generator_waiting", "other"] == 1
    assert logging.getLogger("httpx").level == logging.WARNING  # asking is no event
