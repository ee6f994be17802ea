"""The guide, done as its readers do it: one stack, the blocks of each page in their order, in a shell and in Python."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.e2e.test_cli_up import CLI, START_SECONDS, STOP_SECONDS, processes_of, wait_ready
from tests.services import wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("first-model.md", "from-openai.md", "pretraining.md", "operating.md")
BLOCK = re.compile(r"(\*Not run by the tests[^\n]*\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_NOT_RUN = 3
SMALLER = {
    "[a-h]*.py": "b*.py",
    "--steps 200": "--steps 2",
    "--steps 60": "--steps 4",
    "--epochs 10": "--epochs 2",
    '"steps": 300': '"steps": 2',
    '"every": 100': '"every": 2',
    '"n_epochs": 4': '"n_epochs": 2',
}
"""what would take minutes, and what stands for it here"""
PYTHON = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "block", "exec"), names)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    print(f"\\n::done {code}", flush=True)
"""


class Reader:
    """Somebody with a shell and a Python prompt open, in one folder."""

    def __init__(self, folder: Path) -> None:
        bin = Path(sys.executable).parent
        env = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHTSMITH_")}
        env |= {"PATH": f"{bin}:{env['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        commands = {"sh": ["bash", "-e"], "python": [sys.executable, "-u", "-c", PYTHON]}
        self.prompts = {
            language: subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            for language, command in commands.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for prompt in self.prompts.values():
            os.killpg(prompt.pid, signal.SIGKILL)
            prompt.communicate()

    def do(self, language: str, block: str) -> str:
        """Run a block to its end; returns what it printed."""
        prompt = self.prompts[language]
        assert prompt.stdin is not None
        assert prompt.stdout is not None
        prompt.stdin.write(f"{block}echo; echo '::done 0'\n" if language == "sh" else json.dumps(block) + "\n")
        prompt.stdin.flush()
        said = []
        for line in prompt.stdout:
            if line.startswith("::done"):
                assert line == "::done 0\n", f"{block}\n---\n{''.join(said)}"
                return "".join(said)
            said.append(line)
        raise AssertionError(f"{block}\n---\n{''.join(said)}")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The folder where somebody has said `weightsmith up`, and that process."""
    folder = tmp_path_factory.mktemp("reader")
    home = folder / ".weightsmith"
    with (folder / "up-0.log").open("w") as log:
        process = subprocess.Popen(
            [*CLI, "up", "--home", str(home), "--port", "0"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_ready(process, home)  # type: ignore[arg-type]
        yield folder, process
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of what readers type, in order."""
    found = BLOCK.findall(page.read_text())
    return [(language, text) for excuse, language, text in found if language in ("sh", "python") and not excuse]


def smaller(text: str) -> str:
    for usual, tiny in SMALLER.items():
        text = text.replace(usual, tiny)
    return text


@pytest.mark.slow
@pytest.mark.timeout(START_SECONDS + 600)
def test_the_guide_does_what_it_says(up: tuple[Path, subprocess.Popen[bytes]]) -> None:
    folder, process = up
    said = {}
    with Reader(folder) as reader:
        for page in PAGES:
            said[page] = [reader.do(language, smaller(text)) for language, text in blocks(DOCS / page)]
    assert all("BAD" not in text for text in said["first-model.md"])
    assert re.search(r"^ft:first:default:support:\w+$", said["from-openai.md"][1], flags=re.MULTILINE)
    assert '"label"' in said["pretraining.md"][-1]
    assert (folder / "backup" / "weightsmith.db").stat().st_size > 100_000
    assert any((folder / "backup" / "storage").rglob("model.safetensors"))

    # What an operator sees of all this: figures of every part, and logs that are JSON line by line.
    credentials = json.loads((folder / ".weightsmith" / "credentials.json").read_text())
    headers = {"authorization": f"Bearer {credentials['api_key']}"}
    metrics = httpx.get(credentials["base_url"].replace("/v1", "/metrics"), headers=headers, trust_env=False).text
    assert float(re.search(r'^weightsmith_generator_tokens_total{host="[^"]+"} (\S+)', metrics, re.MULTILINE)[1]) > 0  # type: ignore[index]
    for name in ("generator_waiting", "generator_answers", "generator_slots_used", "http_first_byte_seconds_count"):
        assert f"weightsmith_{name}{{" in metrics
    process.send_signal(signal.SIGINT)
    process.wait(STOP_SECONDS)
    for name in ("api", "light-worker", "train-worker", "generator"):
        text = (folder / ".weightsmith" / "logs" / f"{name}.log").read_text()
        lines = lines_of(folder, name)
        assert {"time", "level", "logger", "pid", "message"} <= set.intersection(*(set(line) for line in lines))
        assert credentials["api_key"] not in text
        assert "Which word" not in text
        assert not [line for line in lines if line["level"] in ("error", "critical")]
    assert any("job" in line and "attempt" in line for line in lines_of(folder, "train-worker"))


def lines_of(folder: Path, name: str) -> list[dict[str, object]]:
    text = (folder / ".weightsmith" / "logs" / f"{name}.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_few_blocks_are_not_run_and_every_shortcut_is_used() -> None:
    texts = {page: (DOCS / page).read_text() for page in PAGES}
    excuses = [excuse for text in texts.values() for excuse, *_ in BLOCK.findall(text) if excuse]
    assert len(excuses) <= MOST_NOT_RUN
    shown = "".join(text for page in PAGES for _, text in blocks(DOCS / page))
    assert [usual for usual in SMALLER if usual not in shown] == []


@pytest.mark.parametrize("page", ["first-model.md", "from-openai.md"])
def test_the_chinese_pages_have_the_same_blocks(page: str) -> None:
    assert blocks(DOCS / "zh" / page) == blocks(DOCS / page)
