"""What people may call a job, a model or a file."""

from typing import Any

import pytest

from cli.problem import ExitCode
from tests.unit.cli.conftest import FakeService, Run, a_job, a_page

JOB, OTHER = "job_" + "a" * 24, "job_ab" + "c" * 22
PLAYS = "pt:default:plays:1a2b3c4d"


@pytest.fixture
def known(service: FakeService) -> FakeService:
    """Two jobs, one of them running, two models and two files."""
    running: dict[str, Any] = a_job(id=OTHER, spec={"kind": "train", "suffix": "fox"}, model="pt:default:fox:9f8e7d6c")
    service.says("GET /v1/jobs", a_page(a_job(state="succeeded", result={"model": PLAYS}), running))
    for job in (a_job(state="succeeded", result={"model": PLAYS}), running):
        service.says(f"GET /v1/jobs/{job['id']}", job)
    service.says(f"GET /v1/jobs/{OTHER}/checkpoints", a_page({"model": "pt:default:fox:9f8e7d6c:ckpt-step-5"}))
    models = [{"id": PLAYS, "aliases": ["gpt-4o-mini"]}, {"id": "ft:default:helper:5e6f7a8b", "aliases": []}]
    service.says("GET /v1/models", a_page(*models))
    files = [{"id": "file-" + letter * 24, "filename": f"{letter}.txt"} for letter in "xy"]
    service.says("GET /v1/files", a_page(*files))
    for file in files:
        service.says(f"GET /v1/files/{file['id']}", file)
    service.says("POST /v1/completions", {"choices": [{"text": "words"}]})
    return service


@pytest.mark.parametrize(
    ("reference", "found"),
    [(JOB, JOB), ("@last", JOB), ("job_aaa", JOB), ("aaaa", JOB), ("fox", OTHER), ("pt:default:fox:9f8e7d6c", OTHER)],
)
def test_a_job(reference: str, found: str, known: FakeService, run: Run) -> None:
    assert run("jobs", "show", reference, "-q").out == found + "\n"


@pytest.mark.parametrize(
    ("reference", "code"),
    [("job_a", ExitCode.NOT_FOUND), ("nobody", ExitCode.NOT_FOUND), ("@first", ExitCode.USAGE)],
)
def test_no_job_or_too_many(reference: str, code: ExitCode, known: FakeService, run: Run) -> None:
    ran = run("jobs", "show", reference)
    assert ran.code == code
    assert reference in ran.err


def test_nothing_runs(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", a_page())
    assert run("jobs", "show", "@running").code == ExitCode.NOT_FOUND
    assert service.last("GET").query["state"] == "running"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (PLAYS, PLAYS),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("plays", PLAYS),
        ("ft:", "ft:default:helper:5e6f7a8b"),
        ("@last", PLAYS),
        (JOB, PLAYS),
        (OTHER, "pt:default:fox:9f8e7d6c:ckpt-step-5"),
        ("nobody", "nobody"),
    ],
)
def test_a_model(reference: str, found: str, known: FakeService, run: Run) -> None:
    assert run("generate", reference, "Go", "--no-stream").out == "words\n"
    assert known.last("POST").json["model"] == found


@pytest.mark.parametrize("reference", ["file-xx", "x.txt", "@last"])
def test_a_file(reference: str, known: FakeService, run: Run) -> None:
    assert run("files", "show", reference, "-q").out == "file-" + "x" * 24 + "\n"
