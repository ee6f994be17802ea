"""Which format a row is said to have, and what is said where that is not clear."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from core.data.detection import formats_of, reads
from core.data.formats import FORMATS, FormatName
from core.data.reader import sniff
from core.errors import InvalidData

Write = Callable[[str, bytes | str | list[Any]], Path]
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = {"messages": [USER, ANSWER]}


@pytest.mark.parametrize("format", FORMATS)
def test_the_keys_of_a_format_make_a_row_of_it(format: FormatName) -> None:
    for keys in FORMATS[format].keys:
        assert formats_of(dict.fromkeys(keys, "x")) == [format]


def test_no_two_formats_have_the_same_keys() -> None:
    every = [set(keys) for known in FORMATS.values() for keys in known.keys]
    assert not [pair for pair in combinations(every, 2) if pair[0] == pair[1]]


@pytest.mark.parametrize(
    ("row", "formats"),
    [
        ({"text": "a", "label": None}, ["text"]),
        ({"text": "a", "id": 1, "title": "t", "source": "web", "tags": ["x"]}, ["text"]),
        ({"prompt": "a", "completion": "b", "label": True}, ["kto"]),
        ({"messages": [USER, ANSWER], "label": True}, ["kto"]),
        ({"messages": [USER], "label": "42"}, ["graded"]),
        ({"messages": [USER], "answer": "42"}, ["graded"]),
        ({"messages": [USER], "id": 7}, ["chat"]),
        ({"messages": [USER], "tools": []}, ["chat"]),
        ({"messages": [USER], "reference_answer": None}, ["graded"]),
        ({"messages": [USER, ANSWER], "reference_answer": "b"}, ["graded"]),
        ({"messages": [USER], "reference_answer": "b", "text": "t", "prompt": "p", "completion": "c"}, ["graded"]),
        ({"messages": "?", "label": True}, ["kto"]),
        ({"messages": [USER], "text": "a"}, ["text", "graded"]),
        ({"messages": [USER, ANSWER], "text": "a"}, ["text", "chat"]),
        ({"text": "a", "label": "x", "score": 1}, ["labelled", "scored"]),
        ({"tokens": [], "tags": [], "text": "a"}, ["text", "tagged"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ["preference"]),
        ({"question": "q", "answer": "a"}, []),
        ({"question": "q", "context": "c", "answer": None}, ["question"]),
        ({}, []),
    ],
)
def test_a_row_has_the_format_with_the_most_of_its_keys(row: dict[str, Any], formats: list[str]) -> None:
    assert formats_of(row) == formats


def test_text_may_be_taken_out_of_what_has_harmless_keys_besides() -> None:
    read = {(format, found) for format in FORMATS for found in FORMATS if format != found and reads(format, found)}
    assert read == {("text", "scored")}
    assert all(reads(format, format) for format in FORMATS)


@pytest.mark.parametrize(
    ("rows", "says", "hint"),
    [
        (
            [{"text": "a", "label": "x", "score": 1}],
            "line 1 is labelled and scored, most rows are labelled",
            "'label' and 'text' make it labelled; 'score' and 'text' make it scored: remove or rename the keys of all",
        ),
        ([CHAT, CHAT, {"text": "a"}], "line 3 is text, most rows are chat", "put each format into a file of its own"),
        (
            [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b"}],
            "line 2 is prompt_completion, most rows are kto",
            "file of its own",
        ),
    ],
)
def test_mixtures_are_explained(write: Write, rows: list[Any], says: str, hint: str) -> None:
    path = write("data.jsonl", rows)
    with pytest.raises(InvalidData, match=says) as error:
        sniff(path, path.name)
    assert error.value.code == "mixed_formats"
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"question": "q", "answer": "a"}, "rename 'question' to 'prompt' and 'answer' to 'completion'"),
        ({"instruction": "i", "response": "r"}, "stands at 'output'"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "'text' and 'pair'"),
        ({"chosen_messages": [], "rejected_messages": []}, "to 'chosen' and 'rejected'"),
        ({"query": "a", "document": "b"}, "'anchor'"),
        ({"content": "a", "label": 1}, "rename the key that holds the text to 'text'"),
        ({"en": "a", "zh": "b"}, 'below one key: {"translation"'),
        ({"input_ids": [1]}, "give text instead of token ids"),
        ({"a": 1}, "rename the keys to those of one format"),
    ],
)
def test_rows_of_no_format_get_advice(write: Write, row: dict[str, Any], hint: str) -> None:
    path = write("data.jsonl", [row])
    with pytest.raises(InvalidData, match="fits no format: line 1") as error:
        sniff(path, path.name)
    assert error.value.code == "unknown_format"
    assert hint in (error.value.hint or "")
    assert "preference needs 'prompt' and 'chosen' and 'rejected' or 'input' and" in error.value.message


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.csv", "text,label\nSome news,3\n", "labelled"),
        ("a.csv", "sentence,pair,score\na,b,0.5\n", "scored"),
        ("a.tsv", "source\ttarget\na\tb\n", "text_pair"),
        ("a.csv", "anchor,positive,negative\na,b,\n", "similar"),
        ("a.csv", "prompt,completion,label\na,b,true\n", "kto"),
        ("a.csv", "question,context,answer,answer_start\nq,a b,b,2\n", "question"),
        ("a.csv", "instruction,input,output\na,,b\n", "alpaca"),
    ],
)
def test_tables(write: Write, name: str, content: str, format: str) -> None:
    assert sniff(write(name, content), name) == format
