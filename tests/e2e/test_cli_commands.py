"""The command line against a whole stack: from a text file to words, and what is asked on the way."""

import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from cli.main import main
from tests.e2e.test_cli_up import CLI, STOP_SECONDS, processes_of, wait_ready
from tests.services import wait_until
from tests.terminal import open_terminal

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 40
pytestmark = pytest.mark.slow


class Shell:
    """Somebody in a folder with a running stack, which is all that says where the service is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with chdir(self.folder), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(list(words))
        text, self.err = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
        assert int(ended.value.code or 0) == code, (words, text, self.err)
        return str(text)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("shell")
    home = folder / ".weightsmith"
    with (folder / "up-0.log").open("w") as log:
        command = [*CLI, "up", "--home", str(home), "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        wait_ready(process, home)
        yield Shell(folder)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def test_from_a_file_to_words(shell: Shell) -> None:
    (shell.folder / "fox.txt").write_text(TEXT * 20)
    shell("files", "check", "fox.txt")
    job = shell("train", "-d", "fox.txt", "--vocab-size", "512", "--steps", "6", "--sequence-length", "32").strip()
    assert "succeeded" in shell.err

    shown = json.loads(shell("jobs", "show", job, "--json"))
    model = shown["result"]["model"]
    assert model.startswith("pt:default:fox:")
    assert shown["progress"]["step"] == 6
    assert shell("jobs", "ls", "-q").splitlines()[0] == job
    points = [line.split("\t") for line in shell("jobs", "metrics", job, "--names", "train_loss").splitlines()]
    assert [point[1] for point in points] == ["1", "2", "3", "4", "5", "6"]
    events = [json.loads(line) for line in shell("jobs", "events", job, "--json").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert json.loads(shell("jobs", "receipt", job))["preparation"]["unigram_entropy"] > 0

    words = ("generate", model, "The quick", "-n", "8", "--temperature", "0")
    assert shell(*words) == shell(*words)
    shell("models", "alias", "gpt-4o-mini", model)
    assert shell("models", "aliases").split("\t")[:2] == ["gpt-4o-mini", model]
    shell("chat", "gpt-4o-mini", "Who jumps?", "-n", "8", "--no-stream")

    archive = shell("models", "pull", model).strip()
    assert "model.safetensors" in zipfile.ZipFile(shell.folder / archive).namelist()
    file = shell("models", "pull", model, "--format", "gguf", "--quantization", "f16").strip()
    assert (shell.folder / file).read_bytes()[:4] == b"GGUF"


def test_from_labels_to_labels(shell: Shell) -> None:
    """A classifier from random weights says what it was taught; the way to it is shown when it is ready."""
    rows = [{"text": word * 3, "label": "low" if word < "m" else "high"} for word in "abcdefghijopqrstuvwxyz" * 8]
    (shell.folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = shell("files", "put", "labels.jsonl").strip()
    dimensions = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 32}
    spec = {
        "kind": "train",
        "suffix": "letters",
        "model": {"init": "random", "family": "bert", "dimensions": dimensions, "tokenizer": "bytes"},
        "data": {"train": [{"file": file}], "sequence_length": 16},
        "objective": {"kind": "sequence_classification"},
        "budget": {"steps": 80},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
    }
    (shell.folder / "letters.json").write_text(json.dumps(spec))
    job = shell("jobs", "submit", "letters.json", "--watch").strip().splitlines()[0]
    told = shell.err
    model = json.loads(shell("jobs", "show", job, "--json"))["result"]["model"]
    assert f"try it: weightsmith classify {model} 'a text'" in told
    answers = [line.split("\t") for line in shell("classify", model, "ccc", "xxx", "--top", "1").splitlines()]
    assert [(text, label) for text, label, _ in answers] == [("ccc", "low"), ("xxx", "high")]
    shell("generate", model, "ccc", code=1)
    assert "POST /v1/classifications serves it" in shell.err
    shell("embed", model, "ccc", code=1)


def test_a_job_is_steered(shell: Shell) -> None:
    (shell.folder / "dog.txt").write_text(TEXT * 5)
    words = ("-d", "dog.txt", "--tokenizer", "bytes", "--steps", "100000", "--sequence-length", "32", "--detach")
    job = shell("train", *words).strip()
    wait_until(lambda: "running" in shell("jobs", "show", job), what="it runs", timeout=60)
    with open_terminal(*CLI, "jobs", "watch", "@running", cwd=shell.folder) as screen:
        screen.read_until("training")
        screen.read_until("loss")
        screen.press("l")
        screen.read_until("q leave")
        screen.press("p")
        screen.read_until("paused")
        screen.press("q")
        screen.read_until(f"{job} goes on")
    shell("jobs", "watch", job, code=6)
    assert f"weightsmith jobs resume {job}" in shell.err
    shell("jobs", "resume", job)
    shell("jobs", "watch", job, "--timeout", "0.2", code=8)
    shell("jobs", "cancel", job[:12])
    shell("jobs", "watch", job, code=3)
    shell("jobs", "cancel", job, code=6)


def test_keys_open_and_close(shell: Shell) -> None:
    key = shell("keys", "create", "guest", "--scope", "read").strip()
    row = next(line.split("\t") for line in shell("keys", "ls").splitlines() if "\tguest\t" in line)
    base_url = json.loads((shell.folder / ".weightsmith" / "credentials.json").read_text())["base_url"]
    as_guest = ("--api-key", key, "--base-url", base_url)
    shell("jobs", "ls", *as_guest)
    shell("keys", "ls", *as_guest, code=4)
    shell("keys", "rm", row[0], "--yes")
    shell("jobs", "ls", *as_guest, code=4)


def test_what_is_refused_says_why(shell: Shell) -> None:
    (shell.folder / "wrong.json").write_text('{"kind": "train", "modl": {}}')
    shell("jobs", "submit", "wrong.json", code=1)
    assert "modl" in shell.err
    shell("models", "show", "nobody", code=5)
    shell("files", "rm", "file-nothing", "--yes", code=5)
    (shell.folder / "bad.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n')
    assert "line 2" in shell("files", "show", shell("files", "put", "bad.jsonl").strip())


def test_a_file_is_seen_as_training_would_see_it(shell: Shell) -> None:
    (shell.folder / "chat.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n' * 3
    )
    file = shell("files", "put", "chat.jsonl").strip()
    lines = shell("files", "preview", file, "--tokenizer", "bytes", "-n", "1").splitlines()
    assert [line for line in lines if line.startswith("+")] == ['+ "hello<|im_end|>"']
    shell("files", "preview", file, "--model", "nobody", code=1)
    assert "nobody" in shell.err


def test_every_address_is_reachable(shell: Shell) -> None:
    assert json.loads(shell("api", "GET", "/v1/catalog"))
    assert json.loads(shell("api", "GET", "/readyz"))
    shell("doctor", "--home", str(shell.folder / ".weightsmith"))
