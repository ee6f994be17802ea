"""The command itself: how fast it helps, what its exit codes mean, and that it never shows a trace."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, SECTIONS, find_command, load, take_options
from cli.problem import ExitCode
from tests.unit.cli.conftest import FakeService, Run, a_job

HELP_SECONDS = 0.2


def processor_seconds(*words: str) -> tuple[float, str]:
    """What a call of the command costs in processor time, whoever else uses the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "cli.main", *words], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize("words", [["--help"], ["jobs", "--help"], ["jobs", "ls", "--help"], ["up", "--help"]])
def test_help_is_there_at_once(words: list[str]) -> None:
    costs, text = min((processor_seconds(*words) for _ in range(3)), key=lambda found: found[0])
    assert "Usage: weightsmith" in text
    assert costs <= HELP_SECONDS


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


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.FAILED),
        (401, ExitCode.NOT_SIGNED_IN),
        (403, ExitCode.NOT_SIGNED_IN),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.WRONG_STATE),
        (413, ExitCode.FAILED),
        (429, ExitCode.NO_ROOM),
        (500, ExitCode.FAILED),
        (503, ExitCode.NO_ROOM),
        (507, ExitCode.NO_ROOM),
    ],
)
def test_exit_codes_of_answers(status: int, code: ExitCode, service: FakeService, run: Run) -> None:
    error = {"message": "the reason", "type": "x", "param": None, "code": "some_code"}
    service.says("POST /v1/jobs/job_x/cancel", (status, {"error": error}))
    ran = run("jobs", "cancel", "job_x" + "x" * 24)
    assert ran.code == ExitCode.NOT_FOUND  # another address: the fake knows nothing of it
    service.says(f"POST /v1/jobs/job_{'y' * 24}/cancel", (status, {"error": error}))
    ran = run("jobs", "cancel", "job_" + "y" * 24)
    assert ran.code == code
    assert ran.out == ""
    assert "the reason" in ran.err
    assert "Traceback" not in ran.err


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


def test_the_exit_codes_in_the_help_are_the_ones_in_the_code(run: Run) -> None:
    text = run("--help").out
    for code in ExitCode:
        assert f"{code.value} " in text


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
