"""The program as a supervisor starts it: in a process of its own, killed, stopped, kept warm."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.child import failure
from core.events import Event, Finished, Resumed, Step, parse_event
from core.training.checkpoint import CorruptCheckpoint
from tests.unit.core.training.conftest import Attempt, Lab

ROOT = Path(__file__).resolve().parents[4]
COMMAND = [sys.executable, "-m", "core.training.run"]
# Steps that take long enough to be hit by a signal, and nothing that takes long otherwise.
SLOW = {"budget": {"steps": 400}, "evaluation": {"every": 1000, "samples": 0}, "checkpoints": {"every": 5}}


def wait_for(run_dir: Path, process: "subprocess.Popen[bytes]", wanted: Callable[[Event], bool]) -> None:
    """Until such an event is reported."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = run_dir / "events.jsonl"
        whole = log.read_bytes().rpartition(b"\n")[0].splitlines() if log.exists() else []
        if any(wanted(parse_event(line)) for line in whole):
            return
        assert process.poll() is None, (run_dir / "child.log").read_text()
        time.sleep(0.002)
    raise AssertionError("no such event within a minute")


def start(run_dir: Path) -> "subprocess.Popen[bytes]":
    with (run_dir / "child.log").open("wb") as log:
        return subprocess.Popen([*COMMAND, str(run_dir)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.fixture
def spare() -> Iterator["subprocess.Popen[bytes]"]:
    """It imports what it needs while the test does something else."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, "--spare"], cwd=ROOT, **pipes)
    yield process
    process.kill()
    process.communicate()


def test_kill_9_and_a_warm_spare_end_with_the_bits_of_an_undisturbed_run(
    lab: Lab, spare: "subprocess.Popen[bytes]"
) -> None:
    spec = lab.spec(precision="bf16", **SLOW | {"budget": {"steps": 24}})
    whole = lab.run(spec)
    killed_in = lab.lay_out(spec)
    process = start(killed_in)
    wait_for(killed_in, process, lambda event: isinstance(event, Step) and event.step >= 8)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    killed = Attempt(killed_in)
    assert killed.saved
    assert not killed.of(Finished)

    run_dir = lab.lay_out(spec, after=killed)
    order = {"run_dir": str(run_dir), "env": {"CUDA_VISIBLE_DEVICES": ""}, "threads": 1}
    assert spare.stdin is not None
    spare.stdin.write(json.dumps(order).encode() + b"\n")
    spare.stdin.flush()
    assert spare.wait(60) == 0
    resumed = Attempt(run_dir)
    assert resumed.of(Resumed) == [Resumed(step=killed.saved[-1].step, exactness="exact")]
    assert resumed.weights == whole.weights
    assert (run_dir / "child.log").exists()


def test_sigterm_saves_and_says_so(lab: Lab) -> None:
    run_dir = lab.lay_out(lab.spec(**SLOW))
    process = start(run_dir)
    wait_for(run_dir, process, lambda event: isinstance(event, Step))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    attempt = Attempt(run_dir)
    assert attempt.finished.reason == attempt.saved[-1].reason == "interrupted"
    assert attempt.finished.step == attempt.saved[-1].step == attempt.steps[-1].step < 400
    assert (run_dir / (attempt.finished.path or "") / "model" / "model.safetensors").exists()


def test_a_corrupt_checkpoint_is_refused_before_anything_is_read_from_it(lab: Lab) -> None:
    spec = lab.spec(budget={"steps": 4}, checkpoints={"every": 2})
    first = lab.run(spec)
    weights = first.path / first.saved[-1].path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors") as refused:
        lab.run(spec, after=first)
    word = failure(refused.value)
    assert (word.code, word.retryable) == ("checkpoint_corrupt", True)


def test_a_spare_that_is_not_needed_goes_quietly(spare: "subprocess.Popen[bytes]") -> None:
    out, err = spare.communicate(timeout=60)  # closes its standard input
    assert (spare.returncode, out, err) == (0, b"", b"")
