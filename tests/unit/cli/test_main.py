"""The command itself: how fast it helps, what its exit codes mean, and that it never shows a trace."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, EPILOG, SECTIONS, find_command, load, take_options
from cli.manual import page
from cli.problem import MEANINGS, OF_STATUS, ExitCode
from tests.unit.cli.conftest import FakeService, Run, a_job, a_page

ROOT = Path(__file__).parents[3]

SLOW = ("asyncio", "core.settings", "httpx", "numpy", "openai", "psutil", "pydantic", "rich.console", "torch")
"""Modules that take longer than a help page may."""


def imported(*words: str, **environment: str) -> tuple[set[str], str]:
    """Which slow modules a call of the command loads, and what it prints."""
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(*[m for m in {SLOW} if m in sys.modules], file=sys.stderr))\n"
        f"from cli.main import main\nmain({list(words)})"
    )
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"} | environment
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()), done.stdout


@pytest.mark.parametrize("words", ["--help", "jobs --help", "train --help", "up --help", "--version"])
def test_help_loads_nothing_slow(words: str) -> None:
    slow, text = imported(*words.split())
    assert text
    assert slow == set()


def test_every_command_has_help_with_an_example() -> None:
    silent = []
    for name in COMMANDS:
        command = load(name)
        for sub in getattr(command, "commands", {name: command}).values():
            examples = (sub.help or "").partition("Example")[2]
            if "weightsmith" not in examples:
                silent.append(f"{name} {sub.name}")
            assert all(len(line) <= 76 for line in examples.splitlines()), sub.name
    assert silent == []


def test_the_summaries_of_commands_fit_a_line() -> None:
    for section in SECTIONS.values():
        for name, (_, summary) in section.items():
            assert len(f"  {name:<10}  {summary}") <= 79


JOB = "job_" + "y" * 24


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 429, 500, 503, 507])
def test_exit_codes_of_answers(status: int, service: FakeService, run: Run) -> None:
    error = {"message": "the reason", "type": "x", "param": None, "code": "some_code"}
    service.says(f"POST /v1/jobs/{JOB}/cancel", (status, {"error": error}, {"x-request-id": "req_1"}))
    ran = run("jobs", "cancel", JOB)
    assert ran.code == OF_STATUS.get(status, ExitCode.FAILED)
    assert ran.out == ""
    assert "the reason" in ran.err
    assert "request req_1" in ran.err
    assert "Traceback" not in ran.err


def test_the_table_of_exit_codes_is_the_one_in_the_code(run: Run) -> None:
    rows = [line.split("\t") for line in run("help", "exit-codes").out.splitlines()]
    assert [int(row[0]) for row in rows] == [*ExitCode] == [*MEANINGS] == [*range(10), 130]
    for code in ExitCode:
        assert f"{code.value} " in EPILOG


def test_with_json_the_error_is_the_envelope_on_standard_error(service: FakeService, run: Run) -> None:
    error = {"message": "no such job", "type": "not_found_error", "param": None, "code": "job_not_found"}
    service.says("GET /v1/jobs/job_" + "y" * 24, (404, {"error": error}))
    ran = run("jobs", "show", "job_" + "y" * 24, "--json")
    assert (ran.code, ran.out) == (ExitCode.NOT_FOUND, "")
    assert json.loads(ran.err) == {"error": error}


@pytest.mark.parametrize(
    "words", [["jobz"], ["jobs", "lss"], ["jobs", "ls", "--bogus"], ["jobs", "ls", "--limit", "0"], ["jobs", "cancel"]]
)
def test_usage_errors_end_with_two_and_suggest(words: list[str], run: Run) -> None:
    ran = run(*words)
    assert ran.code == ExitCode.USAGE
    assert ran.out == ""
    assert "Error:" in ran.err


def test_a_mistyped_command_is_suggested(run: Run) -> None:
    assert "Did you mean 'jobs'" in run("jobz").err
    assert "Did you mean 'jobs logs'" in run("logs", "@last").err


def test_nobody_there(run: Run) -> None:
    ran = run("jobs", "ls", "--base-url", "http://127.0.0.1:9/v1", "--api-key", "x")
    assert ran.code == ExitCode.UNREACHABLE
    assert "weightsmith up" in ran.err


def test_an_unforeseen_error_is_one_message(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", {"data": [{"id": "only this"}]})
    ran = run("jobs", "ls")
    assert ran.code == ExitCode.FAILED
    assert "Traceback" not in ran.err
    assert "--debug" in ran.err


def test_an_answer_that_is_no_json(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", (200, b"<html>hello</html>"))
    ran = run("jobs", "ls")
    assert ran.code == ExitCode.FAILED
    assert "is it a Weightsmith server" in ran.err


def test_common_options_stand_anywhere() -> None:
    assert take_options(["jobs", "--json", "ls", "--base-url", "u", "--api-key=k", "-q", "--", "--json"]) == (
        {"json": True, "base_url": "u", "api_key": "k", "quiet": True},
        ["jobs", "ls", "--", "--json"],
    )


def test_a_command_is_found_by_its_first_words() -> None:
    command, name, rest = find_command(["jobs", "ls", "--limit", "3"])
    assert (command.name, name, rest) == ("ls", "weightsmith jobs ls", ["--limit", "3"])


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("weightsmith 0.")


def test_the_reference_page_is_fresh() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "run: weightsmith help --md > docs/cli.md"


def test_help_explains_a_command_or_says_there_is_none(run: Run) -> None:
    assert "Usage: weightsmith jobs ls" in run("help", "jobs", "ls").out
    assert run("help", "jobs", "lss").code == ExitCode.USAGE


def test_debug_shows_the_trace_and_keeps_the_exit_code(service: FakeService, run: Run) -> None:
    ran = run("jobs", "show", JOB, "--debug")
    assert ran.code == ExitCode.NOT_FOUND
    assert "Traceback" in ran.err


def test_usage_errors_with_json_are_an_envelope(run: Run) -> None:
    ran = run("jobs", "ls", "--bogus", "--json")
    assert ran.code == ExitCode.USAGE
    assert "--bogus" in json.loads(ran.err)["error"]["message"]


def test_json_picks_fields(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", a_page(a_job()))
    assert run("jobs", "ls", "--json=state,progress.step").json["data"] == [{"state": "running", "progress.step": 0}]
    ran = run("jobs", "ls", "--json=stat")
    assert ran.code == ExitCode.USAGE
    assert "'stat'" in ran.err


def test_a_broken_pipe_is_no_error_message(service: FakeService, tmp_path: Path) -> None:
    service.says("GET /v1/jobs", {"object": "list", "data": [a_job()] * 2000, "has_more": False})
    command = [sys.executable, "-m", "cli.main", "jobs", "ls", "--json", "--base-url", service.base_url, "--api-key=k"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()
