"""The demo's text and the conversations made from it."""

import json
from pathlib import Path

import pytest

from cli.corpus import MIN_BYTES, as_jsonl, chats_as_jsonl, from_path, standard_library
from cli.problem import ExitCode, Problem
from core.data.check import check_file

LIMITS = {"max_bytes": 300_000, "max_pairs": 30}
PARAGRAPH = "It was a bright cold day in April, and the clocks were striking thirteen, while people went home. "


def test_the_library_is_the_same_choice_each_time_and_keeps_to_its_size() -> None:
    first, second = standard_library(**LIMITS), standard_library(**LIMITS)
    assert first == second
    assert 100_000 < first.num_bytes <= 300_000
    assert len(first.pairs) == 30
    assert all(question.startswith("What does this function do?\ndef ") for question, _ in first.pairs)


def test_what_it_writes_is_what_training_reads(tmp_path: Path) -> None:
    text = standard_library(**LIMITS)
    for name, content, format in (("t.jsonl", as_jsonl(text), "text"), ("c.jsonl", chats_as_jsonl(text), "chat")):
        (tmp_path / name).write_bytes(content)
        report = check_file(tmp_path / name, name, format)  # type: ignore[arg-type]
        assert report.error() is None
        assert report.num_examples in (len(text.documents), len(text.pairs))


def test_a_file_is_cut_at_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "My book (1).txt"
    path.write_text("\n\n".join(f"{number}. {PARAGRAPH}" for number in range(1000)))
    text = from_path(path, **LIMITS)
    assert text.name == "My-book-1"
    assert len(text.documents) > 5
    assert "\n\n".join(text.documents) == path.read_text()
    question, answer = text.pairs[0]
    assert question.startswith("How does this go on?\n")
    assert answer.endswith("went home.")


def test_a_folder_is_read_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text(PARAGRAPH * 1000)
    (tmp_path / "b.bin").write_bytes(b"\xff" * 100_000)
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe" * 1000)
    assert [document[:10] for document in from_path(tmp_path, **LIMITS).documents] == [PARAGRAPH[:10]]


def test_jsonl_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {PARAGRAPH}"}) + "\n" for n in range(1000)))
    assert len(from_path(path, **LIMITS).documents) == 1000
    path.write_text('{"text": "x"}\n{"txt": "y"}\n')
    with pytest.raises(Problem, match="line 2"):
        from_path(path, **LIMITS)


@pytest.mark.parametrize("content", ["", "too short"])
def test_too_little_is_refused_with_the_number(tmp_path: Path, content: str) -> None:
    path = tmp_path / "small.txt"
    path.write_text(content)
    with pytest.raises(Problem, match=f"{MIN_BYTES:,}") as raised:
        from_path(path, **LIMITS)
    assert raised.value.exit_code is ExitCode.USAGE


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="nothing"):
        from_path(tmp_path / "nowhere", **LIMITS)
