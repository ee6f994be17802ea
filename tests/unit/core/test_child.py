"""The manners of child programs, tried on a program of three lines."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.child import SUPERVISOR_GONE, failure
from core.errors import InvalidData, StorageFull
from core.events import Event, Failed, Finished, parse_event

ROOT = Path(__file__).resolve().parents[3]


def start(tmp_path: Path, body: str, **options: object) -> "subprocess.Popen[str]":
    program = tmp_path / "program.py"
    lines = [
        "import sys, time",
        "from core import child",
        "from core.errors import *",
        "def main(run_dir, stop):",
        "    print('ready', flush=True)",
        *(f"    {line}" for line in body.splitlines()),
        "child.run(main)",
    ]
    program.write_text("\n".join(lines))
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, str(program), str(tmp_path)],
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **({"stdin": subprocess.DEVNULL} | options),
    )


def ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def ends(process: "subprocess.Popen[str]") -> int:
    process.communicate(timeout=20)
    return process.returncode


def events(tmp_path: Path) -> list[Event]:
    log = tmp_path / "events.jsonl"
    return [parse_event(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_success(tmp_path: Path) -> None:
    assert ends(start(tmp_path, "pass")) == 0
    assert events(tmp_path) == []


def test_an_error_of_the_user_is_the_last_word(tmp_path: Path) -> None:
    assert ends(start(tmp_path, "raise InvalidData('line 7', code='c', param='p', hint='h')")) == 1
    assert events(tmp_path) == [Failed(code="c", message="line 7", param="p", hint="h")]


def test_an_error_of_ours_has_a_trace(tmp_path: Path) -> None:
    assert ends(start(tmp_path, "[][1]")) == 1
    (last,) = events(tmp_path)
    assert isinstance(last, Failed)
    assert (last.code, last.message) == ("internal_error", "IndexError: list index out of range")
    assert "in main" in last.trace_tail


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_asks(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "while not stop.requested: time.sleep(0.01)\nopen(run_dir.path / 'saved', 'w')")
    ready(process)
    process.send_signal(number)
    assert ends(process) == 0
    assert (tmp_path / "saved").exists()


def test_a_program_with_nothing_to_save(tmp_path: Path) -> None:
    process = start(tmp_path, "while True: stop.check(); time.sleep(0.01)")
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert ends(process) == 0
    assert events(tmp_path) == [Finished(reason="interrupted")]


def test_it_ends_when_its_standard_input_does(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(60)", stdin=subprocess.PIPE)
    ready(process)
    assert ends(process) == SUPERVISOR_GONE


def test_it_is_killed_with_the_supervisor_even_if_the_pipe_stays_open(tmp_path: Path) -> None:
    reading, writing = os.pipe()  # this test holds the pipe; the supervisor in between dies
    inner = tmp_path / "inner"
    inner.mkdir()
    program = start(inner, "time.sleep(60)", stdin=reading)
    os.close(reading)
    program.kill()
    ends(program)
    supervisor = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, {str(inner / "program.py")!r}, {str(inner)!r}], stdin=int(sys.argv[1]),
                         stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
    reading, writing_too = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", supervisor, str(reading)],
        env={"PYTHONPATH": str(ROOT)},
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    watched = os.pidfd_open(child)
    process.kill()
    process.communicate()
    import select

    assert select.select([watched], [], [], 20)[0], "the child outlived its supervisor"
    for fd in (reading, writing, writing_too, watched):
        os.close(fd)


def test_by_hand_standard_input_does_not_matter(tmp_path: Path) -> None:
    assert ends(start(tmp_path, "time.sleep(0.3)", stdin=subprocess.DEVNULL)) == 0


def test_it_needs_one_argument(tmp_path: Path) -> None:
    called = subprocess.run(
        [sys.executable, "-c", "from core import child; child.run(print)"], cwd=ROOT, capture_output=True, text=True
    )
    assert called.returncode == 1
    assert "give one argument: the run directory" in called.stderr


def test_what_failures_say() -> None:
    assert failure(OSError(errno.ENOSPC, "No space left")).code == "storage_full"
    assert failure(OSError(errno.ENOSPC, "No space left")).retryable
    assert failure(OSError(errno.EACCES, "denied")).code == "internal_error"
    assert failure(MemoryError()).code == "out_of_memory"
    assert failure(StorageFull("x")).retryable
    assert not failure(InvalidData("x")).retryable
    assert len(failure(ValueError("x" * 10_000)).message) <= 4000
