"""Prompts for graders as tokens, against ids and weights written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder, Encoding
from core.data.examples import Conversation, GradedPrompt, Turn
from core.data.renderer import Renderer
from core.data.special_tokens import END_OF_TEXT, TURN_END, TURN_START
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.events import Failed, Prepared
from core.training.plan import Preparation

TOKENIZER = Tokenizer.bytes()
END, OPEN, CLOSE = (TOKENIZER.specials[name] for name in (END_OF_TEXT, TURN_START, TURN_END))
PROMPT = GradedPrompt(Conversation((Turn("user", "?"),)), {"reference_answer": "42\u2028", "n": [1, None]})
GRADER = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}


def encoder(renderer: Renderer, needed: str = "") -> Encoder:
    encoding = Encoding(kind="plain", model="decoder", settings={"needed_fields": needed})
    return Encoder(TOKENIZER, renderer, encoding)


def test_the_prompt_ends_where_the_answer_begins() -> None:
    with Renderer() as renderer:
        ((example,),) = encode_examples([PROMPT], encoder(renderer, "n\nreference_answer"))
    prompt = [OPEN, *b"user\n?", CLOSE, *b"\n", OPEN, *b"assistant\n"]
    (sequence,) = example.sequences
    assert sequence.ids == [*prompt, END]
    assert sequence.weights == [0.0] * len(prompt) + [1.0], "the place of the first token that the model will write"
    assert json.loads(example.item) == PROMPT.item
    assert len(example.item.splitlines()) == 1


def test_a_key_that_the_grader_reads_must_be_there() -> None:
    with Renderer() as renderer, pytest.raises(InvalidData) as raised:
        encode_examples([PROMPT], encoder(renderer, "answer"))
    assert raised.value.code == "grader_field_missing"
    assert raised.value.message == (
        "the row has no 'answer', which the grader reads as `item.answer`; it has 'reference_answer', 'n'"
    )


def spec(path: Path, **objective: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "model": {"init": "random", "preset": "nano", "tokenizer": "bytes"},
        "data": {
            "train": [{"file": f"file-{path.name}"}],
            "format": "graded",
            "sequence_length": 64,
            "packing": "none",
        },
        "objective": {"kind": "grpo", "beta": 0.0, "grader": GRADER} | objective,
    }


def rows(questions: list[str], **more: Any) -> list[Any]:
    return [
        {"messages": [{"role": "user", "content": question}], "reference_answer": "x", **more} for question in questions
    ]


def test_prompts_are_prepared_with_their_items(job: Callable[..., Any], write: Callable[..., Path]) -> None:
    path = write("a.jsonl", rows(["a", "b" * 20, "c" * 60]))
    made = job("core.data.prepare", spec(path), [path])
    assert made.run() == 0, made.events()[-1]
    *_, last = made.events()
    assert isinstance(last, Prepared)
    facts = Preparation.model_validate(last.facts)
    assert (facts.num_rows, facts.num_documents) == (2, 3), "the third leaves no room for an answer"
    dataset = TokenDataset.open(made.path / last.datasets[facts.train[0]])
    assert [json.loads(item) for item in dataset.items()] == [{"reference_answer": "x"}] * 3


def test_a_row_without_the_key_is_named(job: Callable[..., Any], write: Callable[..., Path]) -> None:
    path = write("a.jsonl", [*rows(["a"], level=1), *rows(["b"])])
    grader = GRADER | {"reference": "{{item.level}}"}
    made = job("core.data.prepare", spec(path, grader=grader), [path])
    assert made.run() == 1
    *_, last = made.events()
    assert isinstance(last, Failed)
    assert (last.code, last.param) == ("grader_field_missing", "file-a.jsonl")
    assert last.message.startswith("a.jsonl line 2: the row has no 'level'")
