"""Following a job: what is said on the way, and the verdict."""

import json
from typing import Any

import pytest

from cli.problem import ExitCode
from cli.watch import figures, stage
from tests.unit.cli.conftest import FakeService, Run, a_job, a_page

JOB = "job_" + "a" * 24


def says(service: FakeService, *jobs: Any) -> None:
    service.says(f"GET /v1/jobs/{JOB}", *jobs)
    service.says(f"GET /v1/jobs/{JOB}/events", a_page())


def an_event(seq: int, kind: str, message: str, level: str = "info", **data: Any) -> dict[str, Any]:
    return {
        "id": f"event_{seq}",
        "seq": seq,
        "kind": kind,
        "level": level,
        "message": message,
        "data": data,
        "created_at": 1_790_000_000.0,
    }


def test_a_job_that_succeeds(service: FakeService, run: Run) -> None:
    says(
        service,
        a_job(state="validating", phase="tokenizing"),
        a_job(state="queued", queue_position=2),
        a_job(phase="training", progress={"step": 5, "total_steps": 20}, metrics={"train_loss": 5.25}),
        a_job(state="succeeded", result={"model": "pt:m"}),
    )
    ran = run("jobs", "watch", JOB)
    assert ran.code == ExitCode.DONE
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert lines[:3] == ["tokenizing", "waiting, 2 ahead", "training  step 5/20 · loss 5.250"]
    assert "succeeded: pt:m" in lines[3]
    assert "\r" not in ran.err


@pytest.mark.parametrize(
    ("endpoint", "config", "command"),
    [
        ("/v1/completions", {"kind": "decoder"}, "weightsmith generate pt:m 'Once upon a time'"),
        ("/v1/completions", {"kind": "encoder_decoder"}, "weightsmith generate pt:m 'a text to translate'"),
        ("/v1/embeddings", {"kind": "encoder"}, "weightsmith embed pt:m 'a text'"),
        ("/v1/classifications", {"head": "tagger"}, "weightsmith classify pt:m 'a text'"),
        ("/v1/classifications", {"head": "span"}, "weightsmith classify pt:m --question 'Who?' 'a text'"),
        ("/v1/classifications", {}, "weightsmith classify pt:m 'a [MASK] text'"),
    ],
)
def test_what_to_try_fits_the_model(
    endpoint: str, config: dict[str, str], command: str, service: FakeService, run: Run
) -> None:
    says(service, a_job(state="succeeded", result={"model": "pt:m"}))
    config = {"kind": "encoder", "head": "language_model"} | config
    service.says("GET /v1/models/pt:m", {"config": config, "endpoints": [endpoint]})
    assert f"try it: {command}\n" in run("jobs", "watch", JOB).err


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_does_not(state: str, service: FakeService, run: Run) -> None:
    says(service, a_job(state=state, error={"message": "line 3 is empty", "hint": "remove it"}))
    ran = run("jobs", "watch", JOB)
    assert ran.code == ExitCode.JOB_FAILED
    assert "line 3 is empty" in ran.err
    assert "remove it" in ran.err


def test_a_paused_job_is_not_waited_for(service: FakeService, run: Run) -> None:
    says(service, a_job(state="paused", progress={"step": 9}))
    ran = run("jobs", "watch", JOB)
    assert ran.code == ExitCode.WRONG_STATE
    assert f"weightsmith jobs resume {JOB}" in ran.err


def test_time_is_up(service: FakeService, run: Run) -> None:
    says(service, a_job())
    assert run("jobs", "watch", JOB, "--timeout", "0.01").code == ExitCode.TIMED_OUT


def test_ctrl_c_detaches(service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    says(service, a_job())
    monkeypatch.setattr("cli.watch.time.sleep", interrupted)
    ran = run("jobs", "watch", JOB)
    assert ran.code == ExitCode.INTERRUPTED
    assert "goes on" in ran.err
    assert f"weightsmith jobs watch {JOB}" in ran.err
    assert {asked.method for asked in service.asked} == {"GET"}


def test_events_are_told_once_and_in_order(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(), a_job(state="succeeded"))
    first = [an_event(1, "state", "queued"), an_event(2, "warned", "low on disk", level="warn")]
    service.says(
        f"GET /v1/jobs/{JOB}/events", a_page(*first[::-1]), a_page(an_event(3, "saved", "Checkpoint")), a_page()
    )
    lines = run("jobs", "watch", JOB).err.splitlines()
    assert [line for line in lines if line in ("queued", "warning: low on disk", "Checkpoint")] == [
        "queued",
        "warning: low on disk",
        "Checkpoint",
    ]
    asked = [a.query.get("after") for a in service.asked if a.path.endswith("/events")]
    assert asked == [None, "2", "3"]
    assert [a.query["order"] for a in service.asked if a.path.endswith("/events")] == ["desc", "asc", "asc"]


def test_json_is_a_job_a_line(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(state="succeeded", result={"model": "pt:m"}))
    states = [json.loads(line)["state"] for line in run("jobs", "watch", JOB, "--json").out.splitlines()]
    assert states == ["running", "succeeded"]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(service: FakeService, run: Run) -> None:
    progress = {"step": 5, "total_steps": 20, "fraction": 0.25}
    says(service, a_job(phase="training", progress=progress), a_job(state="succeeded", result={"model": "pt:m"}))
    ran = run("jobs", "watch", JOB)
    assert ran.code == ExitCode.DONE
    assert "training" in ran.err


@pytest.mark.usefixtures("terminal")
def test_a_dumb_terminal_gets_lines(service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    says(service, a_job(phase="training"), a_job(state="succeeded"))
    assert run("jobs", "watch", JOB).err.startswith("training\n")


def test_a_server_that_restarts_is_asked_again(service: FakeService, run: Run) -> None:
    away = (503, {"error": {"message": "away"}})
    says(service, a_job(), away, away, a_job(state="succeeded"))
    assert run("jobs", "watch", JOB).code == ExitCode.DONE


def test_events_follow_gives_the_verdict(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(state="failed"))
    service.says(f"GET /v1/jobs/{JOB}/events", a_page(an_event(1, "state", "queued")), a_page())
    ran = run("jobs", "events", JOB, "-f", "--json")
    assert ran.code == ExitCode.JOB_FAILED
    assert json.loads(ran.out)["seq"] == 1


def test_logs_follow_prints_each_line_once(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(), a_job(state="succeeded"))
    texts = ["one\ntwo\n", "one\ntwo\nthree\n", "two\nthree\nfour\n"]
    service.says(f"GET /v1/jobs/{JOB}/logs", *({"text": text} for text in texts))
    assert run("jobs", "logs", JOB, "-f").out == "one\ntwo\nthree\nfour\n"


def test_logs_with_a_text(service: FakeService, run: Run) -> None:
    service.says(f"GET /v1/jobs/{JOB}/logs", {"text": "fine\nERROR: disk\n"})
    assert run("jobs", "logs", JOB, "--grep", "error").out == "ERROR: disk\n"


def test_top_shows_workers_and_what_is_not_over(service: FakeService, run: Run) -> None:
    worker = {"id": "w", "kind": "train", "host": "box", "pid": 7, "job": JOB, "slots": [], "heartbeat_at": 0.0}
    service.says("GET /v1/workers", a_page(worker))
    service.says("GET /v1/jobs", a_page(a_job(phase="training")), a_page())
    assert run("top").out == f"worker\ttrain\tbox:7\t{JOB}\njob\t{JOB}\ttraining\t\n"
    assert run("top", "--json").json == {"object": "fleet", "workers": [worker], "jobs": []}


def test_figures_are_those_that_are_known() -> None:
    assert figures(a_job()) == ""
    progress = {"step": 5, "total_steps": 20, "tokens_per_second": 12345.6, "eta_seconds": 200}
    job = a_job(progress=progress, metrics={"train_loss": 4.56789})
    assert figures(job) == "step 5/20 · loss 4.568 · 12,346 tok/s · 3 min 20 s left"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"state": "queued", "queue_position": 1}, "waiting, next"),
        ({"state": "queued"}, "waiting for a worker"),
        ({"state": "running", "phase": "evaluating"}, "evaluating"),
        ({"state": "stopping", "phase": "training"}, "saving"),
        ({"state": "something new"}, "something new"),
    ],
)
def test_stages_have_words(job: dict[str, Any], words: str) -> None:
    assert stage(a_job(**job)) == words


OTHER = "job_" + "b" * 24


def test_many_jobs_one_verdict(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(state="succeeded"))
    service.says(f"GET /v1/jobs/{OTHER}", a_job(id=OTHER, state="failed"))
    service.says(f"GET /v1/jobs/{OTHER}/events", a_page())
    ran = run("jobs", "watch", JOB, OTHER)
    assert ran.code == ExitCode.JOB_FAILED
    assert f"{JOB} succeeded" in ran.err
    assert f"{OTHER} failed" in ran.err


def test_wait_is_silent_and_running_means_all(service: FakeService, run: Run) -> None:
    says(service, a_job(), a_job(state="succeeded"))
    service.says("GET /v1/jobs", a_page(a_job()))
    ran = run("jobs", "wait", "@running", "--json=id,state")
    assert (ran.code, ran.err) == (ExitCode.DONE, "")
    assert ran.json["data"] == [{"id": JOB, "state": "succeeded"}]
    says(service, a_job())
    assert run("jobs", "wait", JOB, "--timeout", "0.01").code == ExitCode.TIMED_OUT


def test_once_says_how_they_stand_and_leaves(service: FakeService, run: Run) -> None:
    says(service, a_job(phase="training", progress={"step": 5, "total_steps": 20}))
    ran = run("jobs", "watch", JOB, "--once")
    assert (ran.code, ran.out) == (ExitCode.DONE, f"{JOB}\trunning\ttraining\tstep 5/20\n")
    says(service, a_job(state="cancelled"))
    assert run("jobs", "watch", JOB, "--once").code == ExitCode.JOB_FAILED


def test_samples_and_checkpoints(service: FakeService, run: Run) -> None:
    sample = an_event(2, "sampled", "Sample at 5", step=5, prompt="To", text=" be\n")
    service.says(f"GET /v1/jobs/{JOB}/events", a_page(an_event(1, "state", "queued"), sample))
    assert run("jobs", "samples", JOB).out == '5\t"To"\t" be\\n"\n'
    row = {"step": 5, "model": "pt:m:ckpt-step-5", "best": True, "metrics": {}, "bytes": 9, "created_at": 0.0}
    service.says(f"GET /v1/jobs/{JOB}/checkpoints", a_page(row))
    assert run("jobs", "checkpoints", JOB).out.startswith("5\tpt:m:ckpt-step-5\tbest\t\t9\t")
