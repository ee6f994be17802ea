"""What stands between braces, and what does not."""

import pytest

from core.graders.grade import Sample, Ungradable
from core.graders.template import MAX_CHARACTERS, check, item_fields, render

ITEM = {"answer": "42", "n": 7, "parts": [{"name": "a b"}, {"name": "c"}], "参考": "甲", "none": None, "half": 0.5}
SAMPLE = Sample('{"steps": ["one", {"result": true}], "text": "{{item.answer}}"}')


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain { text } }", "plain { text } }"),
        ("{{item.answer}}", "42"),
        ("a{{ item.n }}b{{item.half}}c", "a7b0.5c"),
        ("{{item.parts[0].name}}/{{item['parts'][1]['name']}}", "a b/c"),
        ('{{item["参考"]}}{{item.参考}}{{item.none}}', "甲甲null"),
        ("{{item.parts}}", '[{"name": "a b"}, {"name": "c"}]'),
        ("{{sample.output_json.steps[0]}} {{sample.output_json.steps[1].result}}", "one true"),
        ("{{sample.output_json.text}}", "{{item.answer}}"),
        ("{{sample.output_text}}", SAMPLE.output_text),
    ],
)
def test_what_is_filled_in(template: str, text: str) -> None:
    assert check(template) == template
    assert render(template, SAMPLE, ITEM) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{item}}", "allowed are {{item.field}}"),
        ("{{item.a | upper}}", "no place to fill"),
        ("{{item.a + 1}}", "no place to fill"),
        ("{{items.a}}", "no place to fill"),
        ("{{sample.output_tex}}", "a sample has output_text and output_json"),
        ("{{sample.output_text.x}}", "without fields"),
        ("{{item[0]}}", "names, not numbers"),
        ("{{item.a", "has no `}}`"),
        ("item.a}}", "the other way round"),
        ("{% if x %}{{item.__class__}}{{", "has no `}}`"),
    ],
)
def test_what_is_refused_before_there_is_a_sample(template: str, says: str) -> None:
    with pytest.raises(ValueError, match="^.*" + says.replace("{", r"\{").replace("[", r"\[")):
        check(template)


@pytest.mark.parametrize(
    ("template", "name", "says"),
    [
        ("{{item.question}}", "invalid_variable_error", "`item` has no 'question': it has answer, n, parts"),
        ("{{item.parts[2]}}", "invalid_variable_error", "`item.parts` has no 2: it is an array of 2"),
        ("{{item.parts[0].name.x}}", "invalid_variable_error", "`item.parts[0].name` has no 'x': it is no object"),
        ("{{item.__class__}}", "invalid_variable_error", "`item` has no '__class__'"),
        ("{{sample.output_json.x}}", "invalid_variable_error", "`sample.output_json` has no 'x': it has steps, text"),
    ],
)
def test_what_only_a_row_can_tell(template: str, name: str, says: str) -> None:
    check(template)
    with pytest.raises(Ungradable) as raised:
        render(template, SAMPLE, ITEM)
    assert raised.value.error.name == name
    assert raised.value.error.details.startswith(says)


@pytest.mark.parametrize("text", ["no JSON", '{"a": NaN}', "[" * 5000, '{"a": "\\ud800"}'])
def test_a_sample_that_is_no_json(text: str) -> None:
    with pytest.raises(Ungradable) as raised:
        render("{{sample.output_json.a}}", Sample(text), {})
    assert raised.value.error.name == "sample_parse_error"


def test_long_texts_are_refused() -> None:
    item = {"a": "x" * (MAX_CHARACTERS // 2)}
    assert len(render("{{item.a}}{{item.a}}", SAMPLE, item)) == MAX_CHARACTERS
    for template in ("{{item.a}}{{item.a}}!", "{{item.a}}" * 1000):
        with pytest.raises(Ungradable, match=f"more than {MAX_CHARACTERS}"):
            render(template, SAMPLE, item)


def test_fields_that_an_item_must_have() -> None:
    assert item_fields("{{item.a.b}} {{sample.output_text}}", "{{item['c d']}}{{item.a}}") == {"a", "c d"}
