"""Every kind of grader: what it says yes to, what it scores, what it refuses at submit."""

import math
import re
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from core.graders import GRADERS, Grader
from core.graders.grade import Grade, Sample
from core.graders.sandbox import Sandbox

ADAPTER: TypeAdapter[Any] = TypeAdapter(Grader)
EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
FUZZY = {
    "type": "text_similarity",
    "name": "fuzzy",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
LENGTH = {
    "type": "python",
    "name": "length",
    "source": "def grade(sample, item):\n    return len(sample['output_text'])",
}
BROKEN = {"type": "python", "name": "broken", "source": "def grade(sample, item):\n    return item['missing']"}


def grade(spec: dict[str, Any], sandbox: Sandbox, text: str = "forty-two", **item: Any) -> Grade:
    grader = ADAPTER.validate_python(spec)
    assert ADAPTER.validate_json(grader.model_dump_json()) == grader, "stored and read back it is the same"
    found: Grade = grader.grade(Sample(text), item, sandbox)
    return found


def refusal(spec: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        ADAPTER.validate_python(spec)
    return str(raised.value)


def test_the_union_is_the_listing() -> None:
    union = get_args(Grader)[0]
    assert set(get_args(union)) == set(GRADERS.values())
    for kind, cls in GRADERS.items():
        assert cls.model_fields["type"].default == kind
        assert cls.__module__ == f"core.graders.{kind}"


@pytest.mark.parametrize(
    ("operation", "text", "score"),
    [
        ("eq", "Forty-Two", 1.0),
        ("eq", "forty-two", 0.0),
        ("eq", "Forty-Two ", 0.0),
        ("ne", "forty-two", 1.0),
        ("ne", "Forty-Two", 0.0),
        ("like", "It is Forty-Two.", 1.0),
        ("like", "It is forty-two.", 0.0),
        ("ilike", "It is FORTY-two.", 1.0),
        ("ilike", "It is 42.", 0.0),
    ],
)
def test_string_check(operation: str, text: str, score: float, sandbox: Sandbox) -> None:
    assert grade(EXACT | {"operation": operation}, sandbox, text, answer="Forty-Two") == Grade(score)


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("fuzzy_match", 2 * 10 / (10 + 18)),
        ("bleu", math.exp(1 - 4 / 2)),
        ("gleu", 3 / 10),
        ("rouge_1", 2 * 2 / (2 + 4)),
        ("rouge_2", 2 * 1 / (1 + 3)),
        ("rouge_3", 0.0),
        ("rouge_4", 0.0),
        ("rouge_5", 0.0),
        ("rouge_l", 2 * 2 / (2 + 4)),
    ],
)
def test_text_similarity(metric: str, score: float, sandbox: Sandbox) -> None:
    found = grade(FUZZY | {"evaluation_metric": metric}, sandbox, "three four", answer="one two three four")
    assert found.score == pytest.approx(score)


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_5", "rouge_l"])
def test_a_text_is_wholly_similar_to_itself(metric: str, sandbox: Sandbox) -> None:
    spec = FUZZY | {"evaluation_metric": metric}
    for text in ("one two three four five", "床前明月光，疑是地上霜。"):  # noqa: RUF001
        assert grade(spec, sandbox, text, answer=text).score == pytest.approx(1.0)


@pytest.mark.parametrize(("metric", "why"), [("cosine", "embedding model"), ("meteor", "WordNet")])
def test_a_metric_that_is_missing_is_refused_by_name(metric: str, why: str) -> None:
    said = refusal(FUZZY | {"evaluation_metric": metric})
    assert f"'{metric}' is not available here" in said
    assert why in said
    assert "fuzzy_match, bleu, gleu, rouge_1" in said


def test_a_python_grader(sandbox: Sandbox) -> None:
    source = "import json\ndef grade(sample, item):\n    return sample['output_json']['n'] / item['of']"
    assert grade(LENGTH | {"source": source}, sandbox, '{"n": 3}', of=4) == Grade(0.75)
    assert grade(LENGTH | {"image_tag": "2025-05-08"}, sandbox) == Grade(9.0)
    [error] = grade(BROKEN, sandbox).errors
    assert error.name == "python_grader_runtime_error"
    assert "line 2, in grade\n    return item['missing']" in error.details
    assert error.details.endswith("KeyError: 'missing'")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def grade(sample, item) return 1", "line 1 is not Python"),
        ("x = 1", "defines no function `grade`"),
        ("def grade(sample): return 1", "two arguments"),
        ("def grade(sample, item, more): return 1", "two arguments"),
        ("async def grade(sample, item): return 1", "defines no function `grade`"),
        ("x = '\0'", "null"),
        ("-" * 100_000 + "1", "is not Python"),
    ],
)
def test_a_source_that_cannot_work_is_refused(source: str, says: str) -> None:
    assert says in refusal(LENGTH | {"source": source})


@pytest.mark.parametrize("arguments", ["sample, item", "s, i, /", "*args", "sample, item, more=1", "sample, item=None"])
def test_functions_that_take_two(arguments: str) -> None:
    ADAPTER.validate_python(LENGTH | {"source": f"def grade({arguments}): return 1"})


MULTI: dict[str, Any] = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "length": LENGTH},
    "calculate_output": "0.5 * exact + 0.5 * min(length / 18, 1)",
}


def test_multi(sandbox: Sandbox) -> None:
    assert grade(MULTI, sandbox, answer="forty-two") == Grade(0.75, {"exact": 1.0, "length": 9.0})
    by_array = MULTI | {"graders": [EXACT, LENGTH]}
    assert ADAPTER.validate_python(by_array) == ADAPTER.validate_python(MULTI)
    single = MULTI | {"graders": EXACT, "calculate_output": "1 - exact"}
    assert grade(single, sandbox, answer="no") == Grade(1.0, {"exact": 0.0})


def test_an_error_of_a_part_is_one_of_the_whole(sandbox: Sandbox) -> None:
    spec = MULTI | {"graders": {"exact": EXACT, "broken": BROKEN}, "calculate_output": "exact - broken"}
    found = grade(spec, sandbox, answer="forty-two")
    assert (found.score, found.sub_scores) == (0.0, {"exact": 1.0, "broken": 0.0})
    assert [error.name for error in found.errors] == ["python_grader_runtime_error"]
    assert found.errors[0].details.startswith("broken: ")
    found = grade(MULTI | {"calculate_output": "length / (exact - 1)"}, sandbox, answer="forty-two")
    assert [error.name for error in found.errors] == ["other_error"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"calculate_output": "exact + lenght"}, "calculate_output names 'lenght'; the graders are exact, length"),
        ({"calculate_output": "exact +"}, "calculate_output: it is no formula"),
        ({"calculate_output": "exec(exact)"}, "there is no function 'exec'"),
        ({"graders": {}}, "at least 1"),
        ({"graders": {f"g{i}": EXACT for i in range(11)}}, "at most 10"),
        ({"graders": [EXACT, EXACT]}, "two graders are called 'exact'"),
        ({"graders": [{"type": "string_check"}]}, "needs a `name`"),
        ({"graders": {"a b": EXACT}}, "pattern"),
        ({"graders": {"exact": {"type": "multi"}}}, "'string_check', 'text_similarity', 'python'"),
        ({"graders": 3}, "valid dictionary"),
    ],
)
def test_a_multi_that_cannot_work_is_refused(change: dict[str, Any], says: str) -> None:
    assert says in refusal(MULTI | change)


@pytest.mark.parametrize("kind", ["score_model", "label_model"])
def test_graders_that_need_a_model_are_refused_by_name(kind: str) -> None:
    said = refusal({"type": kind, "name": "judge", "model": "gpt-4o", "input": []})
    assert re.search(f"'{kind}' need a model that judges, which is not available yet", said)


def test_fields_that_an_item_must_have() -> None:
    assert ADAPTER.validate_python(MULTI).item_fields() == {"answer"}
    assert ADAPTER.validate_python(LENGTH).item_fields() == frozenset()


def test_a_missing_field(sandbox: Sandbox) -> None:
    [error] = grade(EXACT, sandbox).errors
    assert (error.name, "`item` has no 'answer'" in error.details) == ("invalid_variable_error", True)
