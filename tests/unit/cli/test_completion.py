"""TAB: commands from a table, ids from a file of the last minute, and never an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import FakeService, a_job, a_page
from tests.unit.cli.test_main import ROOT, imported

JOB = "job_" + "a" * 24


def completed(line: str, home: Path, **environment: str) -> list[str]:
    """What bash is offered behind a line."""
    words = line.split(" ")
    variables = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "_WEIGHTSMITH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'weightsmith'; from cli.main import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables | environment, cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_commands_and_options(tmp_path: Path) -> None:
    assert completed("weightsmith j", tmp_path) == ["jobs"]
    assert completed("weightsmith jobs cl", tmp_path) == ["clone"]
    assert "--preset" in completed("weightsmith train --pre", tmp_path)


def test_ids_are_asked_for_once_a_minute(service: FakeService, tmp_path: Path) -> None:
    service.says("GET /v1/jobs", a_page(a_job()))
    told = {"WEIGHTSMITH_BASE_URL": service.base_url, "WEIGHTSMITH_API_KEY": "k"}
    for _ in range(2):
        assert completed("weightsmith jobs show job_", tmp_path, **told) == [JOB]
    assert len(service.asked) == 1
    for file in (tmp_path / ".cache" / "weightsmith").iterdir():
        os.utime(file, (0, 0))
    completed("weightsmith jobs show job_", tmp_path, **told)
    assert len(service.asked) == 2


def test_bash_splits_names_at_colons(service: FakeService, tmp_path: Path) -> None:
    service.says("GET /v1/models", a_page({"id": "pt:default:plays:1a2b3c4d", "aliases": ["plays"]}))
    told = {"WEIGHTSMITH_BASE_URL": service.base_url, "WEIGHTSMITH_API_KEY": "k"}
    assert completed("weightsmith chat pl", tmp_path, **told) == ["plays"]
    assert completed("weightsmith chat pt : de", tmp_path, **told) == ["default:plays:1a2b3c4d"]
    assert completed("weightsmith chat pt :", tmp_path, **told) == ["default:plays:1a2b3c4d"]


def test_nobody_there_is_no_error(tmp_path: Path) -> None:
    told = {"WEIGHTSMITH_BASE_URL": "http://127.0.0.1:9/v1", "WEIGHTSMITH_API_KEY": "k"}
    assert completed("weightsmith jobs show @l", tmp_path, **told) == ["@last"]
    assert completed("weightsmith chat ", tmp_path, **told) == ["@last"]


@pytest.mark.parametrize("line", ["weightsmith ", "weightsmith jobs ", "weightsmith files p"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_tab_loads_nothing_slow(shell: str, line: str) -> None:
    told = {"_WEIGHTSMITH_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    told |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_TYPER_COMPLETE_ARGS": line}
    slow, text = imported(**told)
    assert text
    assert slow == set()
