"""Child processes: told, waited for, killed with all that is theirs; the warm spare."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.services import wait_until
from worker import child
from worker.checkpoints import seal
from worker.child import Child
from worker.spare import Spare

FAKE = "tests.unit.worker.fake_child"


def start(folder: Path, program: str, **given: object) -> Child:
    return Child(
        ["/bin/sh", "-c", program],
        env={"PATH": os.environ["PATH"]},
        log=folder / "child.log",
        cwd=folder,
        **given,  # type: ignore[arg-type]
    )


def test_its_end_is_noticed_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep 0.2; exit 3")
    begun = time.monotonic()
    assert process.wait(10.0)
    assert process.exit_code == 3
    assert time.monotonic() - begun < 5


def test_a_word_from_elsewhere_ends_the_waiting(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start(tmp_path, "sleep 60")
    os.close(write)
    assert not process.wait(30.0, or_readable=read)
    assert process.kill()
    assert process.exit_code == -signal.SIGKILL
    os.close(read)


def test_what_it_started_dies_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep 60 & echo $!; exit 0")
    assert process.wait(10.0)
    pid = int((tmp_path / "child.log").read_text())
    wait_until(lambda: not psutil.pid_exists(pid), what="the grandchild is gone", timeout=5)


def test_its_standard_input_ends_when_we_do(tmp_path: Path) -> None:
    process = start(tmp_path, "read line; echo over")
    process.close()
    wait_until(lambda: (tmp_path / "child.log").read_text() == "over\n", what="it has seen the end", timeout=5)
    assert process.wait(5.0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes as somebody else")
def test_it_may_be_somebody_else(tmp_path: Path) -> None:
    process = start(tmp_path, "id -un; id -Gn; echo more >> child.log", user="nobody")
    assert process.wait(10.0)
    said = (tmp_path / "child.log").read_text().split()
    assert said[0] == "nobody"
    assert "root" not in said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_is_sealed_belongs_to_its_writer_no_more(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 65534, 65534)
    seal(tmp_path)
    assert {path.stat().st_uid for path in (tmp_path, *tmp_path.rglob("*"))} == {0}
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o644


def test_the_environment_is_made_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cr3t@host/db")
    env = child.environment(threads=3)
    assert "s3cr3t" not in str(env)
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("3", "3")


def spare(tmp_path: Path, program: str = FAKE) -> Spare:
    return Spare(program, tmp_path / "spares", threads=1, user=None, descriptors=())


def test_a_spare_waits_and_is_replaced_only_when_used(tmp_path: Path) -> None:
    keeper = spare(tmp_path)
    keeper.warm()
    keeper.warm()
    (log,) = (tmp_path / "spares").iterdir()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    process = keeper.hand_over(run_dir, env={"A": "1"}, threads=1)
    assert process is not None
    assert (run_dir / "child.log").exists()
    assert not log.exists(), "its log has become the run's"
    assert keeper.hand_over(run_dir, env={}, threads=1) is None
    process.kill()
    keeper.close()


def test_a_spare_that_has_died_is_not_handed_over(tmp_path: Path) -> None:
    keeper = spare(tmp_path, "no.such.module")
    keeper.warm()
    time.sleep(1.0)
    assert keeper.hand_over(tmp_path, env={}, threads=1) is None
    keeper.close()


def test_a_spare_ends_with_its_owner(tmp_path: Path) -> None:
    """Also when the owner is killed: the end of standard input tells it."""
    program = (
        "import sys, time; from pathlib import Path; from worker.spare import Spare\n"
        f"keeper = Spare({FAKE!r}, Path({str(tmp_path)!r}), threads=1, user=None, descriptors=())\n"
        "keeper.warm(); sys.stdout.write(str(keeper._waiting[0].pid)); sys.stdout.flush(); time.sleep(60)"
    )
    owner = Child(
        [sys.executable, "-c", program],
        env=child.environment(threads=1),
        log=tmp_path / "owner.log",
        cwd=Path(__file__).parents[3],
    )
    wait_until(lambda: (tmp_path / "owner.log").read_text() != "", what="the spare has started")
    pid = int((tmp_path / "owner.log").read_text())
    os.kill(owner.pid, signal.SIGKILL)
    assert owner.wait(10.0)
    wait_until(lambda: not psutil.pid_exists(pid), what="the spare is gone")
