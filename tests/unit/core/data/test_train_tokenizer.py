import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.data.special_tokens import SPECIALS
from core.data.tokenizer import Tokenizer
from core.events import Entered, Failed, Finished, Warned

MODULE = "core.data.train_tokenizer"
Write = Callable[[str, bytes | str | list[Any]], Path]
Make = Callable[..., Any]
WORDS = "".join(f"{word}ing {word}ed un{word} " for word in ("walk", "talk", "jump", "look", "turn", "work", "play"))
TEXT = (
    WORDS + "\n"
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, 1851.\n"
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
    "道可道非常道\n名可名非常名\n无名天地之始\n有名万物之母\n"
)


def spec(*files: Path, format: str = "text", vocab_size: int = 512) -> dict[str, Any]:
    sources = [{"file": f"file-{path.name}"} for path in files]
    return {"kind": "tokenizer", "vocab_size": vocab_size, "data": {"train": sources, "format": format}}


def test_a_vocabulary_is_learned(write: Write, job: Make) -> None:
    path = write("a.txt", TEXT * 40)
    run = job(MODULE, spec(path, vocab_size=512), [path])
    assert run.run() == 0
    finished = run.events()[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.path, finished.metrics["vocab_size"]) == ("completed", "tokenizer", 512)
    assert [event.phase for event in run.events() if isinstance(event, Entered)] == ["reading", "training"]
    tokenizer = Tokenizer.load(run.path / "tokenizer")
    assert tokenizer.vocab_size == 512
    assert [tokenizer.specials[name] for name in SPECIALS] == list(range(71))
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    size = len(TEXT.encode()) / len(tokenizer.encode(TEXT))
    assert size > 2
    assert abs(finished.metrics["bytes_per_token"] - size) < 0.1


def test_the_same_files_give_the_same_vocabulary(write: Write, job: Make) -> None:
    path = write("a.txt", TEXT * 3)
    runs = [job(MODULE, spec(path), [path], name=name) for name in "ab"]
    for process in [run.start() for run in runs]:
        assert process.wait(timeout=60) == 0
    one, two = ((run.path / "tokenizer" / "tokenizer.json").read_bytes() for run in runs)
    assert one == two


def test_conversations_teach_their_contents_only(write: Write, job: Make) -> None:
    row = {"messages": [{"role": "user", "content": "zyx"}, {"role": "assistant", "content": "zyx zyx"}]}
    path = write("a.jsonl", [row] * 50)
    run = job(MODULE, spec(path, format="chat"), [path])
    assert run.run() == 0
    tokenizer = Tokenizer.load(run.path / "tokenizer")
    assert len(tokenizer.encode("zyx")) == 1
    assert len(tokenizer.encode("assistant")) == 9
    warned = [event for event in run.events() if isinstance(event, Warned)]
    assert [event.code for event in warned] == ["small_vocabulary"]


def test_bad_rows_fail_with_their_lines(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "a"}, {"text": ""}])
    run = job(MODULE, spec(path), [path])
    assert run.run() == 1
    last = run.events()[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.message) == ("invalid_data", "a.jsonl line 2: the row's 'text' is empty; remove the row")


def test_sigterm_ends_it_even_while_it_merges(write: Write, job: Make) -> None:
    words = "".join(f"{i:x}".translate(str.maketrans("0123456789", "ghijklmnop")) + " " for i in range(400_000))
    path = write("a.txt", words)
    run = job(MODULE, spec(path, vocab_size=60_000), [path])
    process = run.start()
    while len(run.events()) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began < 5
    assert run.events()[-1] == Finished(reason="interrupted")
