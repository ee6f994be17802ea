"""The demo, small: the same function with less text and less time."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_cli_up import CLI, STOP_SECONDS, processes_of
from tests.services import wait_until

DEMO_SECONDS = 240.0


def demo(home: Path, *options: str) -> subprocess.Popen[str]:
    """The demo in a pipe, as `make demo | tee log` would run it."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [*CLI, "demo", "--quick", "--home", str(home), *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_from_text_to_words_and_again_until_ctrl_c(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = demo(home)
    text, _ = first.communicate(timeout=DEMO_SECONDS)
    assert first.returncode == 0, text
    assert "\r" not in text
    assert "\x1b" not in text
    assert max(map(len, text.partition("[6/6]")[0].splitlines())) <= max(79, len(str(home)) + 40)

    # Both figures are there, and each model has spoken twice.
    loss = float(re.search(r"validation loss ([\d.]+)", text)[1])  # type: ignore[index]
    entropy = float(re.search(r"unigram entropy ([\d.]+)", text)[1])  # type: ignore[index]
    assert 0 < loss < 1.2 * entropy
    models = re.findall(r"^  ((?:pt|ft):\S+)$", text, flags=re.MULTILINE)
    assert [name.partition(":")[0] for name in models] == ["pt", "ft"]
    for model in models:
        assert f"{model} goes on after" in text
        assert f"{model} is asked" in text

    # Nothing runs any more, and what was made is still there.
    wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)
    assert (home / "credentials.json").exists()
    assert any((home / "storage").rglob("model.safetensors"))

    # A second run finds its file and its tokenizer. Ctrl-C in the middle leaves no process and no job.
    second = demo(home)
    assert second.stdout is not None
    said = ""
    for line in second.stdout:
        said += line
        if "Pretraining" in line:
            break
    assert "uploaded before" in said
    assert "trained before" in said
    second.send_signal(signal.SIGINT)
    rest, _ = second.communicate(timeout=STOP_SECONDS)
    assert second.returncode == 130, rest
    assert "Traceback" not in rest
    wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def test_killed_it_takes_its_stack_along(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = demo(home)
    wait_until(lambda: any("weightsmith.db" in path.name for path in home.glob("*")), what="it starts", timeout=60)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def test_text_that_is_too_little_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("To be")
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "demo",
            "--home",
            str(tmp_path / "home"),
            "--data",
            str(tmp_path / "small.txt"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert "50,000" in ran.stderr
    assert not (tmp_path / "home").exists()
