"""The report of a file: what is counted, and that a file is written in one way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.data import tally
from core.data.check import Report, check_file
from core.data.formats import FormatName

Write = Callable[[str, bytes | str | list[Any]], Path]
USER, YES, NO = (
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes!"},
    {"role": "assistant", "content": "no"},
)


def report(write: Write, format: FormatName, *rows: dict[str, Any]) -> Report:
    path = write("a.jsonl", [*rows])
    return check_file(path, path.name, format)


@pytest.mark.parametrize(
    ("format", "rows", "facts"),
    [
        ("text", [{"text": "abc"}, {"text": "d"}], {"mean_characters": {"text": 2.0}}),
        (
            "chat",
            [{"messages": [USER, YES]}, {"messages": [USER, NO | {"weight": 0}, USER, YES]}],
            {
                "learned_messages": 2,
                "messages": {"user": 3, "assistant": 3},
                "mean_characters": {"prompt": 4.0, "learned": 4.0},
            },
        ),
        (
            "preference",
            [
                {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
                {"prompt": [USER], "chosen": [NO], "rejected": [YES]},
            ],
            {"chosen_is_longer": 1, "mean_characters": {"prompt": 2.0, "chosen": 3.0, "rejected": 3.0}},
        ),
        (
            "kto",
            [{"prompt": "a", "completion": "bc", "label": good} for good in (True, False, True)],
            {"good": 2, "bad": 1, "mean_characters": {"prompt": 1.0, "completion": 2.0}},
        ),
        (
            "labelled",
            [{"text": "ab", "label": "x"}, {"text": "c", "pair": "d", "label": "y"}, {"text": "e", "label": "x"}],
            {
                "num_labels": 2,
                "labels": {"x": 2, "y": 1},
                "with_pair": 1,
                "mean_characters": {"text": 1.3, "pair": 1.0},
            },
        ),
        (
            "labelled",
            [{"text": "a", "labels": ["x", "y"]}, {"text": "a", "labels": []}],
            {"without_label": 1, "num_labels": 2, "labels": {"x": 1, "y": 1}, "mean_characters": {"text": 1.0}},
        ),
        (
            "scored",
            [{"text": "a", "score": 1}, {"text": "a", "score": -0.5}],
            {"score": {"least": -0.5, "mean": 0.25, "greatest": 1.0}, "mean_characters": {"text": 1.0}},
        ),
        (
            "tagged",
            [{"tokens": ["New", "York", "is"], "tags": ["B", "I", "O"]}],
            {"words": 3, "num_labels": 3, "labels": {"B": 1, "I": 1, "O": 1}, "mean_characters": {"row": 9.0}},
        ),
        (
            "question",
            [{"question": "q", "context": "abcd", "answer": "cd"}, {"question": "q", "context": "ab"}],
            {"unanswerable": 1, "mean_characters": {"question": 1.0, "context": 3.0, "answer": 2.0}},
        ),
        ("text_pair", [{"source": "abc", "target": "d"}], {"mean_characters": {"source": 3.0, "target": 1.0}}),
        (
            "similar",
            [{"anchor": "a", "positive": "b", "negative": "cc"}, {"anchor": "a", "positive": "b"}],
            {"with_negative": 1, "mean_characters": {"anchor": 1.0, "positive": 1.0, "negative": 2.0}},
        ),
        (
            "graded",
            [{"messages": [USER], "reference_answer": "4"}, {"messages": [USER], "reference_answer": "5", "level": 2}],
            {"item_keys": {"reference_answer": 2, "level": 1}, "mean_characters": {"prompt": 2.0}},
        ),
    ],
)
def test_what_is_counted(write: Write, format: FormatName, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    found = report(write, format, *rows)
    assert found.num_errors == 0, found.errors
    assert found.num_examples == len(rows)
    assert found.facts == facts
    assert Report.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("format", "rows", "says"),
    [
        (
            "preference",
            [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": [USER], "chosen": [YES], "rejected": [NO]}],
            "the row has messages, the first row has strings",
        ),
        (
            "kto",
            [{"messages": [USER, YES], "label": True}, {"prompt": "p", "completion": "c", "label": True}],
            "the row has strings, the first row has messages",
        ),
        (
            "labelled",
            [{"text": "a", "labels": ["x"]}, {"text": "a", "label": "x"}],
            "the row has one label, the first row has all labels that apply",
        ),
        (
            "text_pair",
            [{"translation": {"en": "a", "de": "b"}}, {"translation": {"de": "b", "en": "a"}}],
            "the row has de to en, the first row has en to de",
        ),
    ],
)
def test_a_file_is_written_in_one_way(write: Write, format: FormatName, rows: list[Any], says: str) -> None:
    found = report(write, format, rows[0], *rows, rows[0])
    assert [error.line for error in found.errors] == [3]
    assert says in found.errors[0].message
    assert found.num_examples == 3


def test_hard_and_soft_labels_may_share_a_file(write: Write) -> None:
    found = report(write, "labelled", {"text": "a", "label": "x"}, {"text": "a", "labels": {"x": 0.5, "y": 0.5}})
    assert (found.num_errors, found.variant) == (0, "one label")


def test_classes_that_never_occur_again_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_LABELS", 3)
    found = report(write, "labelled", *[{"text": "a", "label": i} for i in (1, 2, 3, 4, 1, 5)])
    assert [error.line for error in found.errors] == [4, 6]
    assert found.errors[0].message.startswith("'4' would be class number 4; at most 3 are allowed")
    assert found.facts["labels"] == {"1": 2, "2": 1, "3": 1}


def test_the_report_names_the_most_frequent_classes(write: Write) -> None:
    found = report(write, "labelled", *[{"text": "a", "label": i} for i in range(150)], {"text": "a", "label": 149})
    labels = found.facts["labels"]
    assert isinstance(labels, dict)
    assert (len(labels), next(iter(labels.items())), found.facts["num_labels"]) == (100, ("149", 2), 150)
