"""Two runs beside each other."""

import pytest

from cli.problem import ExitCode
from tests.unit.cli.conftest import FakeService, Run, a_job, a_page

A, B = "job_" + "a" * 24, "job_" + "b" * 24


@pytest.fixture
def runs(service: FakeService) -> FakeService:
    one = {"kind": "train", "seed": 7, "budget": {"steps": 300}, "data": {"train": [{"file": "f1"}]}}
    other = one | {"seed": 8, "adapter": {"kind": "lora"}, "data": {"train": [{"file": "f2"}]}}
    service.says(f"GET /v1/jobs/{A}", a_job(spec=one, metrics={"validation_loss": 3.0}))
    service.says(f"GET /v1/jobs/{B}", a_job(id=B, spec=other, metrics={"validation_loss": 2.5}))
    service.says("GET /v1/jobs", a_page())
    for job in (A, B):
        points = [{"step": step, "value": 4.0 - step} for step in range(3)]
        page = {"object": "list", "data": [{"name": "train_loss", "points": points}]}
        service.says(f"GET /v1/jobs/{job}/metrics", page)
    return service


def test_settings_that_differ_and_figures(runs: FakeService, run: Run) -> None:
    ran = run("compare", A, B)
    assert ran.out.splitlines() == [
        "seed\t7\t8\t+1",
        "data.train.0.file\tf1\tf2\t",
        "adapter.kind\t\tlora\t",
        "validation_loss\t3\t2.5\t-0.5",
    ]
    assert run("jobs", "diff", A, B).out.splitlines() == ran.out.splitlines()[:3]
    assert run("compare", A, B, "--json").json["metrics"] == [{"name": "validation_loss", "a": 3.0, "b": 2.5}]
    assert run("jobs", "diff", A, A).out == ""


@pytest.mark.usefixtures("terminal")
def test_a_terminal_sees_both_curves(runs: FakeService, run: Run) -> None:
    assert "training loss: a, o b" in run("compare", A, B).out


def test_a_model_means_the_run_that_made_it(runs: FakeService, run: Run) -> None:
    runs.says("GET /v1/models", a_page({"id": "pt:default:plays:1a2b3c4d", "aliases": []}))
    runs.says("GET /v1/models/pt:default:plays:1a2b3c4d", {"job": B})
    assert run("jobs", "diff", A, "plays", "--json").json["data"][0] == {"name": "seed", "a": 7, "b": 8}
    runs.says("GET /v1/models/pt:default:plays:1a2b3c4d", {"job": None})
    assert run("jobs", "diff", A, "plays").code == ExitCode.NOT_FOUND


def test_both_answer_the_same_words(runs: FakeService, run: Run) -> None:
    for name, chats in (("m1", True), ("m2", False)):
        runs.says(f"GET /v1/models/{name}", {"has_chat_template": chats})
    runs.says("POST /v1/chat/completions", {"model": "m1", "choices": [{"message": {"content": "Hello"}}]})
    runs.says("POST /v1/completions", {"model": "m2", "choices": [{"text": "a\nb"}]})
    assert run("compare", "m1", "m2", "-p", "Hi").out == 'm1\t"Hello"\nm2\t"a\\nb"\n'
    assert len({asked.json["seed"] for asked in runs.asked if asked.method == "POST"}) == 1
