"""`python -m core.data.prepare`, as its supervisor meets it: files in, events out."""

import json
import math
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.child import SUPERVISOR_GONE
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.events import Entered, Failed, Finished, Prepared, Progressed, Started, Warned
from core.training.plan import Preparation

MODULE = "core.data.prepare"
Write = Callable[[str, bytes | str | list[Any]], Path]
Make = Callable[..., Any]


def chat(question: str, answer: str, **more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


def spec(
    *files: Path, objective: str = "supervised", format: str = "chat", weights: tuple[float, ...] = (), **data: Any
) -> dict[str, Any]:
    sources = [{"file": f"file-{path.name}", "weight": (weights or (1.0,) * 64)[i]} for i, path in enumerate(files)]
    return {
        "kind": "train",
        "model": {"init": "random", "preset": "nano", "tokenizer": "bytes"},
        "data": {"train": sources, "format": format, "sequence_length": 64, **data},
        "objective": {"kind": objective},
        "seed": 5,
    }


def text_spec(*files: Path, **data: Any) -> dict[str, Any]:
    return spec(*files, objective="causal_lm", format="text", **data)


def prepared(job: Any) -> Preparation:
    assert job.run() == 0, job.events()[-1]
    last = job.events()[-1]
    assert isinstance(last, Prepared)
    return Preparation.model_validate(last.facts)


def failed(job: Any) -> Failed:
    assert job.run() == 1
    last = job.events()[-1]
    assert isinstance(last, Failed)
    return last


def dataset(job: Any, hash: str) -> TokenDataset:
    return TokenDataset.open(job.path / job.events()[-1].datasets[hash])


def texts(dataset: TokenDataset) -> list[str]:
    return [Tokenizer.bytes().decode(dataset[i].sequences[0].ids) for i in range(len(dataset))]


def test_text(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "ab"}, {"text": "b" * 200}])
    run = job(MODULE, text_spec(path), [path])
    facts = prepared(run)
    told = [type(event) for event in run.events() if not isinstance(event, Progressed)]
    assert told == [Started, Entered, Entered, Prepared]
    data = dataset(run, facts.train[0])
    assert data[0].sequences[0].ids == [256, *b"ab", 256]
    assert texts(data) == ["ab", "b" * 200]
    tokens = 3 + 201
    assert facts.model_dump() | {"train": (), "unigram_entropy": 0} == {
        "train": (),
        "validation": None,
        "num_rows": math.ceil(tokens / 64),
        "num_tokens": tokens,
        "num_supervised_tokens": tokens,
        "num_validation_rows": 0,
        "num_documents": 2,
        "unigram_entropy": 0,
        "bytes_per_token": 202 / 204,
        "truncated_documents": 0,
        "labels": (),
    }
    p = [1 / tokens, 201 / tokens, 2 / tokens]
    assert facts.unigram_entropy == pytest.approx(-sum(x * math.log(x) for x in p))


def test_chat_learns_answers_only(write: Write, job: Make) -> None:
    path = write("a.jsonl", [chat("hi", "yo"), chat("again", "no", weight=1)])
    run = job(MODULE, spec(path), [path])
    facts = prepared(run)
    example = dataset(run, facts.train[0])[0].sequences[0]
    assert [i for i, weight in zip(example.ids, example.weights, strict=True) if weight] == [*b"yo", 259]
    assert (facts.num_rows, facts.num_supervised_tokens, facts.num_documents) == (1, 6, 2)
    assert facts.bytes_per_token == 4 / 6


def test_prompt_and_completion(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"prompt": "ab", "completion": "cd"}, {"prompt": "", "completion": "e"}])
    run = job(MODULE, spec(path, format="prompt_completion"), [path])
    facts = prepared(run)
    data = dataset(run, facts.train[0])
    assert (data[0].sequences[0].ids, data[0].sequences[0].weights) == ([*b"abcd", 256], [0, 0, 1, 1, 1])
    assert (data[1].sequences[0].ids, data[1].sequences[0].weights) == ([256, *b"e", 256], [0, 1, 1])
    assert facts.num_supervised_tokens == 5


def test_every_bad_line_is_named(write: Write, job: Make) -> None:
    rows: list[Any] = [chat("a", "b") for _ in range(20)]
    rows[6] = {"messages": [{"role": "human", "content": "x"}]}
    rows[11] = {"prompt": "a", "completion": "b"}
    good, path = write("good.jsonl", [chat("a", "b")]), write("train.jsonl", [chat("a", "b")])
    run = job(MODULE, spec(good, path), [good, path])
    write("train.jsonl", rows)
    error = failed(run)
    assert error.code == "invalid_data"
    assert error.message.startswith("train.jsonl line 7: messages[0]: 'role' is 'human'; allowed are system,")
    assert "line 12: the row is prompt_completion, the file is chat" in error.message
    assert error.hint == "2 of 20 rows cannot be used; correct or remove them"


def test_validation_by_fraction_takes_the_same_documents_for_the_same_seed(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": f"document {i}"} for i in range(40)])
    runs = [job(MODULE, text_spec(path, validation={"fraction": 0.1}), [path], name=name) for name in "ab"]
    facts = [prepared(run) for run in runs]
    assert facts[0] == facts[1]
    assert facts[0].validation is not None
    train, held = dataset(runs[0], facts[0].train[0]), dataset(runs[0], facts[0].validation)
    assert (len(train), len(held)) == (36, 4)
    assert Counter(texts(train) + texts(held)) == Counter(f"document {i}" for i in range(40))
    assert facts[0].num_validation_rows == math.ceil(sum(len(t) + 1 for t in texts(held)) / 64)
    reseeded = job(MODULE, text_spec(path, validation={"fraction": 0.1}) | {"seed": 6}, [path], name="c")
    other = prepared(reseeded)
    assert other.validation is not None
    assert texts(dataset(reseeded, other.validation)) != texts(held)


@pytest.mark.parametrize(("rows", "held"), [(2, 1), (3, 1)])
def test_a_small_fraction_still_holds_one_document_out(write: Write, job: Make, rows: int, held: int) -> None:
    path = write("a.jsonl", [{"text": f"document {i}"} for i in range(rows)])
    run = job(MODULE, text_spec(path, validation={"fraction": 0.01}), [path])
    facts = prepared(run)
    assert (facts.num_documents, facts.num_validation_rows) == (rows - held, held)


def test_one_document_cannot_be_split(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "alone"}])
    job_spec = text_spec(path, validation={"fraction": 0.5})
    run = job(MODULE, job_spec, [path])
    assert prepared(run).validation is None
    assert [event.code for event in run.events() if isinstance(event, Warned)] == ["no_validation"]
    watches = job_spec | {"stop": {"patience": 1}}
    assert failed(job(MODULE, watches, [path], name="b")).code == "no_validation"


def test_a_plain_text_is_several_documents(write: Write, job: Make) -> None:
    path = write("book.txt", "a line of the book\n" * 5000)
    run = job(MODULE, text_spec(path, validation={"fraction": 0.1}), [path])
    facts = prepared(run)
    assert facts.num_documents == 2
    assert facts.num_validation_rows > 0


def test_a_validation_file(write: Write, job: Make) -> None:
    train, validation = write("a.jsonl", [chat("a", "b")]), write("v.jsonl", [chat("c", "d"), chat("e", "f")])
    files = [{"file": "file-v.jsonl"}]
    other = job(MODULE, spec(train), [validation], name="only_for_its_entry")
    entry = json.loads((other.path / "inputs.json").read_text())["files"][0]
    run = job(MODULE, spec(train, validation=files[0]), [train], validation_file=entry)
    facts = prepared(run)
    assert facts.validation is not None
    assert len(dataset(run, facts.validation)) == 2
    assert facts.num_documents == 1


def test_weights_of_sources_and_a_file_that_is_named_twice(write: Write, job: Make) -> None:
    a, b = write("a.jsonl", [{"text": "a" * 127}]), write("b.jsonl", [{"text": "b" * 255}])
    run = job(MODULE, text_spec(a, b, a, weights=(2.0, 0.5, 1.0)), [a, b, a])
    facts = prepared(run)
    assert facts.train[0] == facts.train[2]
    assert len(run.events()[-1].datasets) == 2
    assert facts.num_rows == 2 * 2 + 2 + 2
    assert facts.num_tokens == facts.num_supervised_tokens == 2 * 128 + 128 + 128


def test_what_exists_is_not_made_again(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": f"document {i}"} for i in range(10)])
    job_spec = text_spec(path, validation={"fraction": 0.2})
    first = job(MODULE, job_spec, [path], name="first")
    facts = prepared(first)
    made = {hash: first.path / at for hash, at in first.events()[-1].datasets.items()}
    again = job(MODULE, job_spec, [path], name="again", datasets=made)
    path.unlink()  # so it cannot even be read
    assert prepared(again) == facts
    assert again.events()[-1].datasets == {}
    assert [type(event) for event in again.events()] == [Started, Prepared]


def test_what_exists_but_is_damaged_is_made_again(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "a"}])
    first = job(MODULE, text_spec(path), [path], name="first")
    facts = prepared(first)
    made = {hash: first.path / at for hash, at in first.events()[-1].datasets.items()}
    (made[facts.train[0]] / "ids.bin").write_bytes(b"")
    again = job(MODULE, text_spec(path), [path], name="again", datasets=made)
    assert prepared(again) == facts
    assert list(again.events()[-1].datasets) == list(facts.train)


def test_long_examples_are_cut_off_dropped_and_told(write: Write, job: Make) -> None:
    path = write("a.jsonl", [chat("q", "a"), chat("q", "a" * 100), chat("q" * 100, "a")])
    run = job(MODULE, spec(path), [path])
    facts = prepared(run)
    assert (facts.num_rows, facts.truncated_documents) == (2, 1)
    warned = {event.code: event.message for event in run.events() if isinstance(event, Warned)}
    assert warned["examples_truncated"].startswith("1 examples are longer than 64 tokens")
    assert warned["examples_dropped"].startswith("1 examples have no learned token within")


def test_nothing_to_learn_within_the_length(write: Write, job: Make) -> None:
    path = write("a.jsonl", [chat("q" * 100, "a")])
    error = failed(job(MODULE, spec(path), [path]))
    assert (error.code, error.param) == ("nothing_to_learn", "data.sequence_length")
    assert "behind the first 64 tokens" in error.message


def test_nothing_to_learn_because_of_the_template(write: Write, job: Make, tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    tokenizer.save(tmp_path / "tokenizer")
    path = write("a.jsonl", [chat("q", "a")])
    error = failed(job(MODULE, spec(path), [path], tokenizer=tmp_path / "tokenizer"))
    assert (error.code, error.message) == (
        "nothing_to_learn",
        "no token has a loss weight: the rendered answers are all empty",
    )


def test_a_template_that_fails_names_the_line(write: Write, job: Make, tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.role + m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    tokenizer.save(tmp_path / "tokenizer")
    path = write("a.jsonl", [chat("q", "a"), chat("bad", "a"), chat("q", "a")])
    error = failed(job(MODULE, spec(path), [path], tokenizer=tmp_path / "tokenizer"))
    assert error.code == "chat_template_error"
    assert error.message == "a.jsonl line 2: the chat template failed: TemplateError: no"


def test_a_trained_tokenizer(write: Write, job: Make, trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer")
    path = write("a.jsonl", [{"text": "the lazy dog " * 20}])
    run = job(MODULE, text_spec(path), [path], tokenizer=tmp_path / "tokenizer")
    facts = prepared(run)
    data = dataset(run, facts.train[0])
    assert trained.decode(data[0].sequences[0].ids) == "the lazy dog " * 20
    assert facts.bytes_per_token == pytest.approx(260 / (len(data[0].sequences[0].ids) - 1))


def test_a_teacher_must_mean_the_same_by_every_id(write: Write, job: Make, trained: Tokenizer, tmp_path: Path) -> None:
    path = write("a.jsonl", [{"text": "the lazy dog " * 20}])
    asked = text_spec(path) | {"objective": {"kind": "distillation", "teacher": "t"}}
    trained.save(tmp_path / "teacher")
    error = failed(job(MODULE, asked, [path], reference=tmp_path / "teacher"))
    assert (error.code, error.param) == ("vocabulary_mismatch", "objective.teacher")
    assert prepared(
        job(MODULE, asked, [path], name="same", tokenizer=tmp_path / "teacher", reference=tmp_path / "teacher")
    )


def judged(path: Path) -> dict[str, Any]:
    return text_spec(path) | {
        "objective": {"kind": "kto"},
        "model": {"init": "pretrained", "from": "m"},
        "data": {"train": [{"file": f"file-{path.name}"}], "format": "kto", "sequence_length": 64},
    }


@pytest.mark.parametrize(("labels", "warned"), [([True, False], []), ([True, True], ["one_label"])])
def test_judged_answers_are_lanes_with_a_label(write: Write, job: Make, labels: list[bool], warned: list[str]) -> None:
    rows = [{"prompt": "a", "completion": "b" * (n + 1), "label": label} for n, label in enumerate(labels)]
    path = write("a.jsonl", rows)
    run = job(MODULE, judged(path), [path])
    facts = prepared(run)
    data = dataset(run, facts.train[0])
    assert data.labels.tolist() == [[float(label)] for label in labels]
    assert data[1].sequences[0].ids == [*b"abb", 256]
    assert facts.num_supervised_tokens == 5
    assert [event.code for event in run.events() if isinstance(event, Warned)] == warned


def test_a_missing_file_is_an_internal_error_with_a_trace(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "a"}])
    run = job(MODULE, text_spec(path), [path])
    path.unlink()
    error = failed(run)
    assert error.code == "internal_error"
    assert "FileNotFoundError" in error.trace_tail


def test_as_a_program(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "a"}])
    good = job(MODULE, text_spec(path), [path], name="good")
    bad = job(MODULE, text_spec(path, sequence_length=8) | {"seed": -1}, [path], name="bad")
    processes = [run.start() for run in (good, bad)]
    assert [process.wait(timeout=60) for process in processes] == [0, 1]
    assert isinstance(good.events()[-1], Prepared)
    assert isinstance(bad.events()[-1], Failed)


def started(job: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
    process: subprocess.Popen[bytes] = job.start(**kwargs)
    deadline = time.monotonic() + 30
    while not any(isinstance(event, Progressed) for event in job.events()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.fixture
def long_job(write: Write, job: Make, trained: Tokenizer, tmp_path: Path) -> Any:
    trained.save(tmp_path / "tokenizer")
    path = write("a.jsonl", [{"text": "the lazy dog sleeps 123 " * 400}] * 3000)
    return job(MODULE, text_spec(path), [path], tokenizer=tmp_path / "tokenizer")


def test_sigterm_ends_it_in_good_order(long_job: Any) -> None:
    process = started(long_job)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert long_job.events()[-1] == Finished(reason="interrupted")
    assert not list((long_job.path / "datasets").glob("[0-9a-f]*"))


def test_it_does_not_outlive_its_supervisor(long_job: Any) -> None:
    process = started(long_job, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == SUPERVISOR_GONE
