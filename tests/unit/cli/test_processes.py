"""Children die with us, come back when they die alone, and end in good order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import processes
from cli.processes import Child, Stopping, StopSignals, end, how, process_exists, spawn
from tests.services import wait_until

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
STUBBORN = [
    *(sys.executable, "-I", "-S", "-c"),
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def a_child(tmp_path: Path, command: list[str], **options: float) -> Child:
    environment = {"PATH": os.defpath}
    return Child("thing", command, log=tmp_path / "thing.log", environment=environment, cwd=tmp_path, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(death: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from cli.processes import spawn
child = spawn({SLEEP!r}, log=Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert process_exists(child)
    parent.send_signal(death)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not process_exists(child), what="the child is gone")


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    launched = [sys.executable, "-I", "-S", "-c", processes.LAUNCHER, "1", "9", "/bin/touch", str(marker)]
    assert subprocess.run(launched, capture_output=True).returncode != 0
    assert not marker.exists()


def test_ctrl_c_does_not_reach_children(tmp_path: Path) -> None:
    child = spawn(SLEEP, log=tmp_path / "log")
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        child.kill()
        child.wait()


def test_a_child_that_dies_starts_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_BACKOFF_SECONDS", 0.05)
    child = a_child(tmp_path, SLEEP)
    told: list[str] = []
    child.start()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        child.look(told.append)
        return child.running and child.pid != first

    wait_until(back, what="the child is back")
    child.kill()
    assert len(told) == 1
    assert "killed by SIGKILL" in told[0]
    assert str(child.log) in told[0]


def test_the_backoff_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_BACKOFF_SECONDS", 0.001)
    child = a_child(tmp_path, [sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"])
    told: list[str] = []
    child.start()

    def died_thrice() -> bool:
        child.look(told.append)
        return child.deaths == 3

    wait_until(died_thrice, what="three deaths")
    assert [line.partition("again in ")[2].partition(" s")[0] for line in told] == ["0.001", "0.002", "0.004"]
    assert "exit code 3" in told[0]


def test_ending_is_asked_for_and_then_insisted_on(tmp_path: Path) -> None:
    willing = a_child(tmp_path, SLEEP)
    stubborn = a_child(tmp_path, STUBBORN, patience_seconds=0.2)
    stubborn.name = "stubborn"
    willing.start(), stubborn.start()
    wait_until(lambda: "up" in stubborn.log_tail(), what="it ignores SIGTERM")
    assert end([willing, stubborn], lambda: False) == ["stubborn"]
    assert not willing.running
    assert not stubborn.running


def test_in_a_hurry_nobody_is_waited_for(tmp_path: Path) -> None:
    stubborn = a_child(tmp_path, STUBBORN, patience_seconds=60)
    stubborn.start()
    wait_until(lambda: "up" in stubborn.log_tail(), what="it ignores SIGTERM")
    began = time.monotonic()
    assert end([stubborn], lambda: True) == ["thing"]
    assert time.monotonic() - began < 5


def test_signals_are_noted_and_felt_at_the_next_pause() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signals = StopSignals()
    signals.install()
    try:
        signals.pause(0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopping):
            signals.pause(0.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_grown_log_is_put_aside_under_the_feet_of_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    program = """
import pathlib, time
print('a long story', flush=True)
while not pathlib.Path('go').exists():
    time.sleep(0.01)
print('end')
"""
    child = a_child(tmp_path, [sys.executable, "-I", "-S", "-c", program])
    child.start()
    wait_until(lambda: "story" in child.log_tail(), what="it has written")
    child.look(print)
    (tmp_path / "go").touch()
    wait_until(lambda: not child.running, what="it ends")
    assert (tmp_path / "thing.old.log").read_text() == "a long story\n"
    assert child.log.read_bytes() == b"end\n"


def test_exit_statuses_have_words() -> None:
    assert [how(code) for code in (0, 3, -9, -200)] == [
        "exit code 0",
        "exit code 3",
        "killed by SIGKILL",
        "killed by signal 200",
    ]
