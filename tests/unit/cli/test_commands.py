"""What each command asks of the API and how it shows the answer: to a person, to a pipe, as JSON."""

import hashlib
import io
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.problem import ExitCode
from tests.unit.cli.conftest import FakeService, Run, a_job, a_page

JOB = "job_" + "a" * 24
FILE = {
    "id": "file-111111111111111111111111",
    "object": "file",
    "bytes": 1_500_000,
    "filename": "plays.txt",
    "purpose": "fine-tune",
    "status": "processed",
    "created_at": 1_790_000_000,
}
MODEL = {
    "id": "pt:default:plays:1a2b3c4d",
    "object": "model",
    "created": 1_790_000_000,
    "parameters": 1_262_720,
    "bytes": 2_600_000,
    "family": "llama",
    "metrics": {"validation_loss": 3.25},
}


def test_json_is_the_answer_unchanged(service: FakeService, run: Run) -> None:
    page = a_page(a_job() | {"a_field_we_do_not_know": {"x": [1, None, "ü"]}}, has_more=True)
    service.says("GET /v1/jobs", page)
    assert run("jobs", "ls", "--json").json == page


def test_a_pipe_gets_tabs_and_full_values(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", a_page(a_job(progress={"fraction": 0.5})))
    assert run("jobs", "ls").out == f"{JOB}\ttrain\trunning\t50%\t\t2026-09-21T14:13:20Z\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_table_that_fits(service: FakeService, run: Run) -> None:
    long = a_job(result={"model": "pt:default:" + "x" * 90})
    service.says("GET /v1/jobs", a_page(long, a_job()))
    lines = run("jobs", "ls").out.splitlines()
    assert len(lines) == 3
    assert JOB in lines[1]
    assert "…" in lines[1]


def test_quiet_prints_ids(service: FakeService, run: Run) -> None:
    service.says("GET /v1/files", a_page(FILE, FILE | {"id": "file-2"}))
    ran = run("files", "ls", "-q")
    assert (ran.out, ran.err) == ("file-111111111111111111111111\nfile-2\n", "")


def test_an_empty_list_says_what_to_do_on_standard_error(service: FakeService, run: Run) -> None:
    service.says("GET /v1/files", a_page())
    ran = run("files", "ls")
    assert ran.out == ""
    assert "weightsmith files put" in ran.err


def test_filters_travel_and_what_was_not_given_does_not(service: FakeService, run: Run) -> None:
    service.says("GET /v1/jobs", a_page())
    run("jobs", "ls", "--state", "running")
    assert service.last("GET").query == {"state": "running", "limit": "20"}


def test_put_uploads_the_bytes(service: FakeService, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plays.txt"
    path.write_bytes(b"To be\r\n\x00 or not")
    service.says("POST /v1/files", FILE)
    ran = run("files", "put", str(path))
    assert ran.out == "file-111111111111111111111111\n"
    sent = service.last("POST")
    assert b"To be\r\n\x00 or not" in sent.body
    assert b'name="purpose"\r\n\r\nfine-tune' in sent.body
    assert b'filename="plays.txt"' in sent.body


def test_a_large_file_travels_in_parts(
    service: FakeService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.files.UPLOAD_BYTES", 5)
    monkeypatch.setattr("cli.files.PART_BYTES", 4)
    path = tmp_path / "large.txt"
    path.write_bytes(b"0123456789")
    service.says("POST /v1/uploads", {"id": "upload_1"})
    service.says("POST /v1/uploads/upload_1/parts", {"id": "part_1"}, {"id": "part_2"}, {"id": "part_3"})
    service.says("POST /v1/uploads/upload_1/complete", {"id": "upload_1", "file": FILE})
    assert run("files", "put", str(path)).out == "file-111111111111111111111111\n"
    assert service.last("POST").json == {"part_ids": ["part_1", "part_2", "part_3"]}
    assert service.asked[0].json["bytes"] == 10
    parts = [asked.body for asked in service.asked if asked.path.endswith("/parts")]
    assert [piece in body for piece, body in zip((b"0123", b"4567", b"89"), parts, strict=True)] == [True] * 3


def test_cat_writes_the_bytes(service: FakeService, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from cli.main import main

    service.says("GET /v1/files/file-111111111111111111111111/content", (200, b"\xff\x00raw"))
    with pytest.raises(SystemExit):
        main(["files", "cat", "file-111111111111111111111111"])
    assert capfdbinary.readouterr().out == b"\xff\x00raw"


def test_check_needs_no_server_and_names_bad_lines(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": "wrong"}\n{"text": "fine"}\n')
    ran = run("files", "check", str(path))
    assert ran.code == ExitCode.FAILED
    assert "line 2" in ran.out
    path.write_text('{"text": "fine"}\n')
    assert run("files", "check", str(path)).code == ExitCode.DONE
    assert run("files", "check", str(path), "--json").json["num_examples"] == 1
    assert run("files", "check", str(path), "--format", "poetry").code == ExitCode.USAGE


def test_check_says_what_is_in_the_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label\ngood,pos\nbad,neg\nfine,pos\n")
    lines = run("files", "check", str(path)).out.splitlines()
    assert "format\tlabelled" in lines
    assert "labels\tpos 2, neg 1" in lines
    assert "mean characters\ttext 3.7" in lines


def preview_of(*pieces: dict[str, Any], labels: Sequence[float] = (), names: Sequence[str] = ()) -> dict[str, Any]:
    sequence = {"name": "text", "num_tokens": 5, "num_learned": 3, "truncated": True, "pieces": pieces}
    example = {"sequences": [sequence], "labels": labels}
    rows = [{"line": 1, "error": None, "examples": [example]}, {"line": 2, "error": "is empty", "examples": []}]
    return {"object": "file.preview", "labels": names, "rows": rows}


def test_a_preview_marks_what_is_learned(service: FakeService, run: Run) -> None:
    read, learned = {"text": "2+", "learned": False, "target": None}, {"text": "2\n=4", "learned": True, "target": None}
    service.says("POST /v1/files/file-111111111111111111111111/preview", preview_of(read, learned))
    ran = run("files", "preview", "file-111111111111111111111111", "--tokenizer", "bytes", "--objective", "supervised")
    assert ran.out == '  "2+"\n+ "2\\n=4"\nline 2: is empty\n'
    assert "line 1, text: 5 tokens, 3 learned, its end is cut off" in ran.err
    body = service.last("POST").json
    assert body == {"tokenizer": "bytes", "objective": {"kind": "supervised"}, "limit": 3}
    assert run("files", "preview", "file-111111111111111111111111").code == ExitCode.USAGE


def test_a_preview_shows_tags_and_classes(service: FakeService, run: Run) -> None:
    tagged = {"text": "York", "learned": True, "target": "I-NP"}
    service.says(
        "POST /v1/files/file-111111111111111111111111/preview",
        preview_of(tagged, labels=[0.0, 1.0], names=["neg", "pos"]),
    )
    assert run("files", "preview", "file-111111111111111111111111", "--model", "m").out.startswith(
        '+ "York"\tI-NP\nlabels: pos 1\n'
    )


@pytest.mark.usefixtures("terminal")
def test_a_preview_on_a_terminal_is_the_text_itself(service: FakeService, run: Run) -> None:
    piece = {"text": "[b]bold[/b]", "learned": True, "target": None}
    service.says("POST /v1/files/file-111111111111111111111111/preview", preview_of(piece))
    assert "[b]bold[/b]" in run("files", "preview", "file-111111111111111111111111", "--model", "m").out


def test_rm_asks_first_and_off_a_terminal_wants_yes(service: FakeService, run: Run) -> None:
    ran = run("files", "rm", "file-111111111111111111111111")
    assert (ran.code, service.asked) == (ExitCode.USAGE, [])
    assert "--yes" in ran.err
    service.says(
        "DELETE /v1/files/file-111111111111111111111111",
        {"id": "file-111111111111111111111111", "object": "file", "deleted": True},
    )
    assert run("files", "rm", "file-111111111111111111111111", "--yes").code == ExitCode.DONE


def test_submit_reads_a_file_and_prints_the_id(service: FakeService, run: Run, tmp_path: Path) -> None:
    spec = {"kind": "tokenizer", "data": {"train": [{"file": "file-111111111111111111111111"}]}}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec))
    service.says("POST /v1/jobs", (201, a_job(state="validating")))
    ran = run("jobs", "submit", str(path))
    assert ran.out == JOB + "\n"
    assert "jobs watch" in ran.err
    assert service.last("POST").json == spec


@pytest.mark.parametrize("content", ["{", None])
def test_submit_of_what_is_no_json(run: Run, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "job.json"
    if content is not None:
        path.write_text(content)
    assert run("jobs", "submit", str(path)).code == ExitCode.USAGE


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_steering(verb: str, service: FakeService, run: Run) -> None:
    service.says(f"POST /v1/jobs/{JOB}/{verb}", a_job(state="stopping"))
    assert run("jobs", verb, JOB).out == f"{JOB}\tstopping\n"
    assert service.last("POST").body == b""


def test_clone_with_changes(service: FakeService, run: Run) -> None:
    service.says(f"POST /v1/jobs/{JOB}/clone", (201, a_job(id="job_" + "b" * 24)))
    assert run("jobs", "clone", JOB, "--change", '{"seed": 8}').out == "job_" + "b" * 24 + "\n"
    assert service.last("POST").json == {"seed": 8}
    assert run("jobs", "clone", JOB, "--change", "{").code == ExitCode.USAGE


def metrics() -> dict[str, object]:
    points = [{"step": step, "value": value} for step, value in ((1, 8.5), (2, None), (3, 7.25))]
    return {"object": "list", "job": JOB, "data": [{"name": "train_loss", "points": points}]}


def test_metrics_in_a_pipe_are_points(service: FakeService, run: Run) -> None:
    service.says(f"GET /v1/jobs/{JOB}/metrics", metrics())
    assert run("jobs", "metrics", JOB).out == "train_loss\t1\t8.5\ntrain_loss\t3\t7.25\n"


@pytest.mark.usefixtures("terminal")
def test_metrics_on_a_terminal_are_a_curve(service: FakeService, run: Run) -> None:
    service.says(f"GET /v1/jobs/{JOB}/metrics", metrics())
    out = run("jobs", "metrics", JOB).out
    assert "training loss" in out
    assert "8.50" in out
    assert service.last("GET").query["names"] == "train_loss,validation_loss"


def test_models(service: FakeService, run: Run) -> None:
    service.says("GET /v1/models", a_page(MODEL))
    assert run("models", "ls").out.startswith("pt:default:plays:1a2b3c4d\t1262720\t2600000\t")
    service.says("GET /v1/models/pt:default:plays:1a2b3c4d", MODEL)
    assert "metrics\tvalidation_loss 3.25\n" in run("models", "show", MODEL["id"]).out


def test_alias(service: FakeService, run: Run) -> None:
    service.says("PUT /v1/models/gpt-4o-mini/alias", {"id": "gpt-4o-mini", "alias": "gpt-4o-mini", "model": "m"})
    assert run("models", "alias", "gpt-4o-mini", "m").code == ExitCode.DONE
    assert service.last("PUT").json == {"model": "m"}


def test_pull_leaves_a_whole_file_or_none(
    service: FakeService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service.says("GET /v1/models/pt:default:plays:1a2b3c4d/download", (200, b"PK-zip"))
    assert run("models", "pull", MODEL["id"]).out == "pt-default-plays-1a2b3c4d.zip\n"
    assert (tmp_path / "pt-default-plays-1a2b3c4d.zip").read_bytes() == b"PK-zip"
    assert run("models", "pull", "nobody").code == ExitCode.NOT_FOUND
    assert [path.name for path in tmp_path.iterdir()] == ["pt-default-plays-1a2b3c4d.zip"]


def test_pull_as_a_file_for_llama_cpp(
    service: FakeService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service.says("GET /v1/models/plays/download", (200, b"GGUF"))
    ran = run("models", "pull", "plays", "--format", "gguf", "--quantization", "Q4_0")
    assert ran.out == "plays.q4_0.gguf\n"
    assert "llama.cpp" in ran.err
    assert service.last("GET").query == {"format": "gguf", "quantization": "Q4_0"}


SSE = {"content-type": "text/event-stream"}


def events(*chunks: object) -> tuple[int, bytes, dict[str, str]]:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return 200, "".join([*lines, "data: [DONE]\n\n"]).encode(), SSE


def test_generate_streams(service: FakeService, run: Run) -> None:
    chunks = [{"object": "text_completion", "choices": [{"text": text}]} for text in ("To ", "be")]
    service.says("POST /v1/completions", events(*chunks))
    assert run("generate", "m", "Go:", "--seed", "7").out == "To be\n"
    body = service.last("POST").json
    assert (body["prompt"], body["seed"], body["stream"]) == ("Go:", 7, True)
    assert "stop" not in body


def test_generate_with_beams_draws_nothing(service: FakeService, run: Run) -> None:
    service.says("POST /v1/completions", events({"object": "text_completion", "choices": [{"text": "早上好"}]}))
    assert run("generate", "m", "Good morning", "--beams", "4").out == "早上好\n"
    body = service.last("POST").json
    assert body["num_beams"] == 4
    assert not {"temperature", "top_p"} & body.keys()


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "classification": (
        {"label": "good", "labels": [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}]},
        "good\t0.75\nbad\t0.25\n",
    ),
    "tags": (
        {"spans": [{"label": "NP", "text": "He", "start": 0, "end": 2, "score": 0.5}], "words": []},
        "NP\tHe\t0-2\t0.5\n",
    ),
    "answers": (
        {"answers": [{"text": "", "start": None, "end": None, "score": 0.9}]},
        "(not in the text)\t\t0.9\n",
    ),
    "masks": ({"masks": [{"start": 0, "end": 6, "tokens": [{"token": "He", "score": 0.5}]}]}, "He\t0.5\n"),
    "score": ({"score": -1.5}, "-1.5\n"),
}


@pytest.mark.parametrize("kind", SAID)
def test_classify(kind: str, service: FakeService, run: Run) -> None:
    said, shown = SAID[kind]
    answer = {"object": "list", "data": [{"object": kind, "index": 0, **said}]}
    service.says("POST /v1/classifications", answer)
    assert run("classify", "m", "a text").out == shown
    assert service.last("POST").json == {"model": "m", "input": ["a text"]}
    assert run("classify", "m", "a text", "--json").json == answer


def test_classify_asks_about_texts(service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [{"object": "score", "index": i, "score": i} for i in range(2)]
    service.says("POST /v1/classifications", {"data": data})
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    assert run("classify", "m", "-", "--question", "Who?", "--top", "2").out == "one\t0\ntwo\t1\n"
    body = service.last("POST").json
    assert body["input"] == [{"question": "Who?", "context": "one"}, {"question": "Who?", "context": "two"}]
    assert body["top_k"] == 2
    assert run("classify", "m", "x", "--question", "Who?", "--pair", "y").code == ExitCode.USAGE


def test_embed(service: FakeService, run: Run) -> None:
    data = [{"object": "embedding", "index": i, "embedding": [i, 0.5]} for i in range(2)]
    service.says("POST /v1/embeddings", {"data": data})
    assert run("embed", "m", "a", "b", "--dimensions", "2").out == "[0, 0.5]\n[1, 0.5]\n"
    assert service.last("POST").json == {"model": "m", "input": ["a", "b"], "dimensions": 2}


def test_what_others_wrote_cannot_steer_a_terminal(
    service: FakeService, run: Run, terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.says("POST /v1/completions", events({"choices": [{"text": "a\x1b]0;title\x07b"}]}))
    assert "\x1b]0;" in run("generate", "m", "Go").out  # a pipe gets every byte
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run("generate", "m", "Go").out == "a\ufffd]0;title\ufffdb\n"
    service.says("GET /v1/files", a_page(FILE | {"filename": "x\x1b[2Jy"}))
    assert "\x1b[2J" not in run("files", "ls").out


def test_generate_as_json_is_one_answer(service: FakeService, run: Run) -> None:
    answer = {"object": "text_completion", "choices": [{"text": "To be"}]}
    service.says("POST /v1/completions", answer)
    assert run("generate", "m", "Go:", "--json").json == answer
    assert "stream" not in service.last("POST").json


def test_chat_answers_one_message(service: FakeService, run: Run) -> None:
    deltas = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
    service.says("POST /v1/chat/completions", events(*({"choices": [{"delta": delta}]} for delta in deltas)))
    assert run("chat", "m", "Hi", "--system", "Be brief").out == "Hello\n"
    assert [turn["role"] for turn in service.last("POST").json["messages"]] == ["system", "user"]


def test_chat_off_a_terminal_wants_a_message(service: FakeService, run: Run) -> None:
    assert run("chat", "m").code == ExitCode.USAGE


def test_keys_create_shows_the_key_once(service: FakeService, run: Run) -> None:
    service.says("POST /v1/keys", (201, {"id": "key_1", "name": "laptop", "value": "ws_secret"}))
    ran = run("keys", "create", "laptop")
    assert ran.out == "ws_secret\n"
    assert "this once" in ran.err


def test_api_reaches_everything(service: FakeService, run: Run, tmp_path: Path) -> None:
    service.says("POST /v1/anything", {"done": True})
    assert run("api", "post", "/v1/anything", "--data", '{"x": 1}').json == {"done": True}
    assert service.last("POST").json == {"x": 1}
    (tmp_path / "body.json").write_text('{"y": 2}')
    run("api", "POST", "v1/anything", "--data", f"@{tmp_path / 'body.json'}")
    assert service.last("POST").json == {"y": 2}
    run("api", "POST", "/v1/anything", "-f", "a.b=1", "-f", "name=x y")
    assert service.last("POST").json == {"a": {"b": 1}, "name": "x y"}
    run("api", "POST", "/v1/anything", "-f", "purpose=p", "-f", f"file=@{tmp_path / 'body.json'}")
    assert b'filename="body.json"' in service.last("POST").body
    service.says("GET /v1/anything", {})
    run("api", "GET", "/v1/anything", "-f", "limit=3")
    assert service.last("GET").query == {"limit": "3"}
    assert run("api", "POST", "/v1/anything", "-f", "a").code == ExitCode.USAGE
    assert run("api", "BREW", "/v1/coffee").code == ExitCode.USAGE
    assert run("api", "GET", "/v1/nothing").code == ExitCode.NOT_FOUND


TUNED = "job_" + "b" * 24


@pytest.fixture
def plays(service: FakeService, tmp_path: Path) -> str:
    """A text here, and a service that has seen nothing of it."""
    path = tmp_path / "plays.txt"
    path.write_text("To be")
    for what in ("files", "tokenizers", "jobs"):
        service.says(f"GET /v1/{what}", a_page())
    service.says("POST /v1/files", FILE | {"format": "text"})
    service.says("POST /v1/jobs", (201, a_job(kind="tokenizer")), (201, a_job(id=TUNED)))
    done = a_job(kind="tokenizer", state="succeeded", result={"tokenizer": "tok_1"})
    service.says(f"GET /v1/jobs/{JOB}", done)
    service.says(f"GET /v1/jobs/{JOB}/events", a_page())
    return str(path)


def test_train_uploads_trains_a_tokenizer_and_submits(service: FakeService, run: Run, plays: str) -> None:
    ran = run("train", "--data", plays, "--steps", "30", "--detach")
    assert ran.code == ExitCode.DONE
    assert ran.out == TUNED + "\n"
    spec = service.last("POST").json
    assert spec["model"] == {"init": "random", "family": "llama", "preset": "nano", "tokenizer": "tok_1"}
    assert spec["data"]["train"] == [{"file": FILE["id"]}]
    assert spec["budget"] == {"steps": 30}
    assert (spec["objective"], spec["suffix"]) == ({"kind": "causal_lm"}, "plays")


def test_train_again_uploads_nothing_and_trains_no_tokenizer(service: FakeService, run: Run, plays: str) -> None:
    digest = hashlib.sha256(b"To be").hexdigest()
    service.says("GET /v1/files", a_page(FILE | {"filename": "plays.txt", "bytes": 5, "sha256": digest}))
    spec = {"kind": "tokenizer", "vocab_size": 4096, "data": {"train": [{"file": FILE["id"], "weight": 1.0}]}}
    service.says("GET /v1/jobs", a_page(a_job(spec=spec, state="succeeded", result={"tokenizer": "tok_1"})))
    service.says("GET /v1/tokenizers", a_page({"id": "tok_1"}))
    assert run("train", "--data", plays, "--detach").code == ExitCode.DONE
    (sent,) = (asked for asked in service.asked if asked.method == "POST")
    assert sent.json["model"]["tokenizer"] == "tok_1"


def test_train_from_a_model_fine_tunes(service: FakeService, run: Run) -> None:
    service.says("POST /v1/jobs", (201, a_job()))
    service.says(f"GET /v1/files/{FILE['id']}", FILE | {"format": "preference"})
    run("train", "--data", FILE["id"], "--from", "pt:m", "--lora", "8", "--detach")
    spec = service.last("POST").json
    assert spec["model"] == {"init": "pretrained", "from": "pt:m"}
    assert spec["objective"] == {"kind": "dpo"}
    assert spec["budget"] == {"epochs": 3}
    assert spec["adapter"] == {"kind": "lora", "rank": 8}


ESTIMATE = {"object": "job.estimate", "parameters": 1_000_000, "estimate": {"total_steps": 12.0, "state_bytes": 16e6}}


@pytest.mark.parametrize("words", [("train", "--dry-run"), ("estimate",)])
def test_a_dry_run_makes_no_job(words: tuple[str, ...], service: FakeService, run: Run, plays: str) -> None:
    service.says("POST /v1/jobs", ESTIMATE)
    assert run(*words, "--data", plays).out == "parameters\t1000000\ntotal steps\t12\nstate bytes\t16000000\n"
    sent = service.last("POST")
    assert sent.query == {"dry_run": "true"}
    assert sent.json["model"]["tokenizer"] == "bytes"
    assert [asked.path for asked in service.asked if asked.method == "POST"] == ["/v1/files", "/v1/jobs"]


def test_estimate_of_a_file_or_of_nothing(service: FakeService, run: Run, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"kind": "train"}')
    service.says("POST /v1/jobs", ESTIMATE)
    assert run("estimate", str(tmp_path / "job.json"), "--json").json == ESTIMATE
    assert run("estimate").code == ExitCode.USAGE


def test_show_prints_programs_and_sends_nothing(service: FakeService, run: Run, plays: str) -> None:
    script = run("train", "--data", plays, "--show", "curl").out
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
    assert f"file=@{plays}" in script
    compile(run("train", "--data", plays, "--show", "python").out, "program", "exec")
    assert service.asked == []
    assert run("train", "--data", plays, "--show", "cobol").code == ExitCode.USAGE


def test_train_on_what_is_not_there(service: FakeService, run: Run) -> None:
    service.says("GET /v1/files", a_page())
    assert run("train", "--data", "nowhere.txt").code == ExitCode.USAGE


def test_doctor_finds_what_is_wrong(service: FakeService, run: Run, tmp_path: Path) -> None:
    service.says("GET /readyz", {"status": "ok"})
    service.says("GET /v1/models", a_page())
    service.says("GET /v1/workers", a_page({"kind": "train"}, {"kind": "light"}))
    ran = run("doctor", "--home", str(tmp_path / "home"), "--json")
    findings = {finding["name"]: finding for finding in ran.json["data"]}
    assert ran.code == ExitCode.FAILED
    assert findings["server"]["good"]
    assert not findings["workers"]["good"]
    assert "generator" in findings["workers"]["advice"]
    kinds = ({"kind": kind} for kind in ("train", "light", "generator"))
    service.says("GET /v1/workers", a_page(*kinds))
    text = run("doctor", "--home", str(tmp_path / "home")).out
    assert "BAD" not in text.partition("server")[2]
