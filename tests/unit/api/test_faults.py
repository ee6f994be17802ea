"""Wrong bodies are described in the words of their writers: which field, what it was, what is allowed."""

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.faults import fault_of, parse_spec
from core.job_spec import JOB_SPEC

SPEC: dict[str, Any] = {
    "kind": "train",
    "model": {"init": "random", "preset": "nano", "tokenizer": "bytes"},
    "data": {"train": [{"file": "file-1"}]},
    "budget": {"steps": 3},
}


def fault(body: Any) -> tuple[str | None, str]:
    try:
        JOB_SPEC.validate_python(body)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        found = fault_of(errors, body)
        return found.param, found.message
    raise AssertionError("nothing was wrong")


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"kind": "dance"}, "kind", ["'dance'", "'train'", "'tokenizer'"]),
        ({"foo": 1}, "foo", ["Unknown field `foo`"]),
        ({"precision": "fp8"}, "precision", ["'fp8'", "'bf16'", "'fp32'"]),
        ({"model": {"init": "random", "tokenizer": "bytes"}}, "model", ["`preset` or `dimensions`"]),
        ({"model": {"init": "borrowed"}}, "model.init", ["'borrowed'", "'random'", "'pretrained'"]),
        ({"model": {"preset": "nano"}}, "model.init", ["is missing"]),
        ({"model": {"init": "random", "preset": "nano"}}, "model.tokenizer", ["is missing"]),
        ({"model": SPEC["model"] | {"colour": 1}}, "model.colour", ["Unknown field `colour` in `model`"]),
        ({"data": {"train": []}}, "data.train", ["at least 1 item"]),
        ({"data": {"train": [{"file": "f", "weight": -1}]}}, "data.train.0.weight", ["-1", "greater than 0"]),
        ({"data": SPEC["data"] | {"validation": {"fraction": 2}}}, "data.validation.fraction", ["2", "0.5"]),
        ({"data": SPEC["data"] | {"validation": {"file": 3}}}, "data.validation.file", ["3", "string"]),
        ({"budget": {}}, "budget", ["steps, tokens, epochs, seconds"]),
        ({"resources": {"gpus": 7}}, "resources.gpus", ["7", "less than or equal to 1"]),
        ({"resources": {"gpus": "all"}}, "resources.gpus", ["'all'", "'auto'"]),
        ({"optimizer": {"kind": "adamw", "betas": [2, 3]}}, "optimizer.betas.0", ["less than 1"]),
        ({"optimizer": {"betas": [2, 3]}}, "optimizer.betas.0", ["less than 1"]),
        ({"optimizer": {"momentum": 1}}, "optimizer.momentum", ["Unknown field `momentum` in `optimizer`"]),
        ({"optimizer": {"kind": "lion"}}, "optimizer.kind", ["'lion'", "'adamw'", "'muon'", "'adafactor'", "'sgd'"]),
        ({"metadata": {"a": 3}}, "metadata.a", ["string"]),
        ({"budget": {"steps": float("nan")}}, "budget.steps", ["finite"]),
    ],
)
def test_names_the_field_and_what_is_allowed(change: dict[str, Any], param: str, words: list[str]) -> None:
    found, message = fault(SPEC | change)
    assert found == param
    for word in words:
        assert word in message


def test_a_list_of_wrong_items_is_not_too_short() -> None:
    assert "at least 1 item" not in fault(SPEC | {"data": {"train": [{"file": ""}]}})[1]


def test_many_faults_are_counted() -> None:
    param, message = fault(SPEC | {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1})
    assert param == "a"
    assert message.endswith("(and 2 more).")


def test_a_spec_that_the_server_puts_together_is_held_to_the_same_words() -> None:
    with pytest.raises(RequestValidationError) as raised:
        parse_spec(SPEC | {"seed": -1})
    assert fault_of(raised.value.errors(), raised.value.body).param == "seed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*SPEC, "seed", "stop", "metadata", "batch", "x"]), json_values))
def test_describes_anything(change: dict[str, Any]) -> None:
    try:
        JOB_SPEC.validate_python(SPEC | change)
    except ValidationError:
        param, message = fault(SPEC | change)
        assert message
        assert param is None or "Validation" not in param
