"""The screen of watched jobs: what is drawn, and that it works in a real (pseudo) terminal."""

import os
import re
import signal
import sys
from contextlib import AbstractContextManager

import pytest

from cli.curve import layers, smoothed
from cli.problem import ExitCode
from cli.screen import Watched, frame, visible
from tests.terminal import SECONDS, Terminal, open_terminal
from tests.unit.cli.conftest import FakeService, a_job, a_page

JOB, OTHER = "job_" + "a" * 24, "job_" + "b" * 24
Opened = AbstractContextManager[Terminal]
CLI = (sys.executable, "-m", "cli.main")


def drawn(*jobs: Watched, width: int = 80, height: int = 24, log: bool = False) -> list[str]:
    text = frame(jobs, 0, width=width, height=height, log=log, note="q leave", braille=True)
    lines = text.plain.split("\n")
    assert len(lines) == height
    assert all(len(line) < width for line in lines)
    return lines


def a_run(id: str = JOB) -> Watched:
    progress = {
        **{"step": 50, "total_steps": 100, "fraction": 0.5, "tokens_per_second": 1000.0},
        **{"eta_seconds": 60.0, "eta_low": 50.0, "eta_high": 90.0},
    }
    job = a_job(id=id, phase="training", progress=progress, metrics={"train_loss": 3.25})
    loss = [(float(step), 6 - step / 20 + step % 2) for step in range(50)]
    return Watched(id, job, sample="Sample at 40: ROMEO: my lord", loss=loss, log=["one", "two"])


def test_a_frame_has_bars_curve_sample_and_events() -> None:
    one = a_run()
    one.events.append("Checkpoint at step 40")
    text = "\n".join(drawn(one, Watched(OTHER)))
    for part in (
        "━━━━━━━━  50%",
        "training",
        "loss 3.250 · 1,000 tok/s · 1 min left (50 s to 1 min 30 s)",
        "ROMEO",
        "Checkpoint at step 40",
        "> job_aaaaaa",
        OTHER,
    ):
        assert part in text
    assert re.search("[\u2801-\u28ff]", text)
    assert drawn(one, log=True)[2:4] == ["one", "two"]


def test_many_jobs_scroll_and_small_terminals_are_not_overrun() -> None:
    drawn(*(a_run() for _ in range(60)), width=80, height=20)
    assert list(visible(60, 59, 6)) == [54, 55, 56, 57, 58, 59]
    assert list(visible(3, 1, 6)) == [0, 1, 2]


def test_the_smoothed_line_is_bright_and_the_raw_one_is_not() -> None:
    rows = layers(a_run().loss, [(10.0, 5.0)], width=60, height=8)
    assert {bright for _, cells in rows for character, bright in cells if character != " "} == {True, False}
    assert sum(cell == ("o", True) for _, cells in rows for cell in cells) == 1


def test_smoothing_is_free_of_bias_and_of_stride() -> None:
    assert smoothed([(step, 2.0) for step in range(100)])[-1][1] == pytest.approx(2.0)
    dense = smoothed([(step, step / 100) for step in range(1001)])
    sparse = smoothed([(step, step / 100) for step in range(0, 1001, 10)])
    assert sparse[-1][1] == pytest.approx(dense[-1][1], abs=0.06)


def terminal(
    service: FakeService, *words: str, columns: int = 100, lines: int = 30
) -> AbstractContextManager[Terminal]:
    options = ("--base-url", service.base_url, "--api-key", "k")
    return open_terminal(*CLI, *words, *options, columns=columns, lines=lines)


@pytest.fixture
def running(service: FakeService) -> FakeService:
    job = a_run().job
    assert job is not None
    for id in (JOB, OTHER):
        service.says(f"GET /v1/jobs/{id}", job | {"id": id})
        service.says(f"GET /v1/jobs/{id}/events", a_page())
        service.says(f"GET /v1/jobs/{id}/logs", {"text": "a line of the log\n"})
        points = [{"step": step, "value": 5.0 - step / 10} for step in range(30)]
        service.says(f"GET /v1/jobs/{id}/metrics", {"data": [{"name": "train_loss", "points": points}]})
    return service


def test_keys_steer_and_q_leaves(running: FakeService) -> None:
    running.says(f"POST /v1/jobs/{OTHER}/pause", a_job(id=OTHER, state="stopping"))
    running.says(f"POST /v1/jobs/{OTHER}/cancel", a_job(id=OTHER, state="stopping"))
    with terminal(running, "jobs", "watch", JOB, OTHER) as shown:
        shown.read_until("> job_aaaaaa")
        assert "\x1b[?1049h" in shown.seen
        shown.press("\x1b[B\x1b[A\t")  # down, up, down: read in one go
        shown.read_until("> job_bbbbbb")
        shown.press("l")
        shown.read_until("a line of the log")
        shown.press("c")
        shown.read_until("for good? y / n")
        shown.press("n")
        shown.read_until("q leave")
        shown.press("p")
        shown.read_until("saving")
        assert [asked.path for asked in running.asked if asked.method == "POST"] == [f"/v1/jobs/{OTHER}/pause"]
        shown.press("q")
        shown.read_until("2 jobs go on")
        assert "\x1b[?1049l" in shown.seen
        assert shown.process.wait(SECONDS) == ExitCode.INTERRUPTED


def test_ctrl_c_detaches_and_twice_offers_to_cancel(running: FakeService) -> None:
    running.says(f"POST /v1/jobs/{JOB}/cancel", a_job(state="stopping"))
    with terminal(running, "jobs", "watch", JOB) as shown:
        shown.read_until("training")
        shown.press("\x03")
        shown.read_until("Ctrl-C once more to cancel")
        shown.press("\x03")
        shown.read_until("for good?")
        shown.press("y\n")
        shown.read_until("cancelled")
        assert shown.process.wait(SECONDS) == ExitCode.INTERRUPTED
    assert running.last("POST").path == f"/v1/jobs/{JOB}/cancel"


def test_the_end_of_the_job_is_the_end_of_the_screen(running: FakeService) -> None:
    with terminal(running, "jobs", "watch", JOB) as shown:
        shown.read_until("training")
        running.says(f"GET /v1/jobs/{JOB}", a_job(state="failed", error={"message": "not finite at step 51"}))
        shown.read_until(f"{JOB} failed: not finite at step 51")
        assert shown.process.wait(SECONDS) == ExitCode.JOB_FAILED


@pytest.mark.parametrize(("columns", "lines"), [(79, 30), (100, 19)])
def test_a_small_terminal_keeps_its_lines(running: FakeService, columns: int, lines: int) -> None:
    with terminal(running, "jobs", "watch", JOB, columns=columns, lines=lines) as shown:
        shown.read_until("training")
        assert "\x1b[?1049h" not in shown.seen
        os.killpg(shown.process.pid, signal.SIGINT)
        shown.read_until("goes on")


def test_what_is_destroyed_is_named_by_its_reader(service: FakeService) -> None:
    model = "pt:default:plays:1a2b3c4d"
    service.says(f"DELETE /v1/models/{model}", {"id": model, "deleted": True})
    for typed, code in (("yes", ExitCode.FAILED), (model, ExitCode.DONE)):
        with terminal(service, "models", "rm", model) as shown:
            shown.read_until("Type its name")
            assert not [asked for asked in service.asked if asked.method == "DELETE"]
            shown.press(typed + "\n")
            assert shown.process.wait(SECONDS) == code
    assert service.last("DELETE").path == f"/v1/models/{model}"
