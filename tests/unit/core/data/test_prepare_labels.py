"""Labels are found in the files, in a stable order, and what cannot be learned is refused before any training."""

from pathlib import Path
from typing import Any

import pytest

from core.events import Warned
from tests.unit.core.data.test_prepare import MODULE, Make, Write, dataset, failed, prepared, spec


def labelled(*files: Path, objective: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    made = spec(*files, format="labelled", **data)
    return made | {"objective": objective or {"kind": "sequence_classification"}}


def encoder_config(**fields: Any) -> dict[str, Any]:
    from core.models import families
    from core.models.config import Dimensions

    dims = Dimensions(hidden_size=16, num_layers=1, num_heads=2, context_length=64)
    config = families.shape("bert", dims, vocab_size=327).with_head("classifier", **fields)
    return dict(config.model_dump(mode="json"))


def test_labels_are_found_in_all_files(write: Write, job: Make) -> None:
    train = write("a.jsonl", [{"text": "x", "label": "good"}, {"text": "y", "label": "bad"}])
    held_out = write("b.jsonl", [{"text": "z", "label": "awful"}, {"text": "w", "label": "good"}])
    from tests.unit.core.data.conftest import input_file

    made = labelled(train, validation={"file": f"file-{held_out.name}"})
    run = job(MODULE, made, [train], validation_file=input_file(held_out), config=encoder_config())
    facts = prepared(run)
    assert facts.labels == ("awful", "bad", "good")
    assert facts.num_supervised_tokens == 2  # examples
    assert [dataset(run, facts.train[0])[i].labels for i in range(2)] == [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)]


def test_numbers_are_ordered_as_numbers(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "x", "label": n} for n in (10, 9, 0, 2)])
    assert prepared(job(MODULE, labelled(path), [path], config=encoder_config())).labels == ("0", "2", "9", "10")


def test_a_model_s_own_labels_stay(write: Write, job: Make) -> None:
    path = write("a.jsonl", [{"text": "x", "label": "good"}, {"text": "y", "label": "good"}])
    config = encoder_config(labels=("good", "bad"))
    run = job(MODULE, labelled(path), [path], config=config)
    facts = prepared(run)
    assert facts.labels == ("good", "bad")
    assert dataset(run, facts.train[0])[0].labels == (1.0, 0.0)
    other = write("b.jsonl", [{"text": "x", "label": "good"}, {"text": "y", "label": "so-so"}])
    refused = failed(job(MODULE, labelled(other), [other], name="other", config=config))
    assert refused.code == "unknown_label"
    assert "b.jsonl line 2: the label 'so-so' is none of the model's: 'good', 'bad'" in refused.message


@pytest.mark.parametrize(
    ("rows", "objective", "code"),
    [
        ([{"text": "x", "label": "a"}] * 3, None, "too_few_labels"),
        ([{"text": "x", "labels": ["a", "b"]}] * 3, None, "many_labels"),
        ([{"text": "x", "label": str(n)} for n in range(5000)], None, "too_many_labels"),
        (
            [{"text": "x", "labels": {"a": 0.5, "b": 0.5}}] * 3,
            {"kind": "sequence_classification", "labels": "many"},
            "soft_labels",
        ),
    ],
)
def test_what_cannot_be_learned(write: Write, job: Make, rows: list[Any], objective: Any, code: str) -> None:
    path = write("a.jsonl", rows)
    refused = failed(job(MODULE, labelled(path, objective=objective), [path], config=encoder_config()))
    assert refused.code == code


def test_texts_that_do_not_fit_are_counted(write: Write, job: Make) -> None:
    rows = [{"text": "x" * 100, "label": "a"}, {"text": "y", "label": "b"}]
    path = write("a.jsonl", rows)
    run = job(MODULE, labelled(path), [path], config=encoder_config())
    assert prepared(run).truncated_documents == 1
    (warned,) = [event for event in run.events() if isinstance(event, Warned)]
    assert warned.code == "examples_truncated"
