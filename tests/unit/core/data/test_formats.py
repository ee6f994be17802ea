from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.examples import Conversation, Document, PromptCompletion, Turn
from core.data.formats import FORMATS

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yo"}
CALL = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"c": "SF"}'}}
TOOL = {"type": "function", "function": {"name": "w", "parameters": {}}}


def chat(*messages: object, **rest: object) -> dict[str, Any]:
    return {"messages": list(messages), **rest}


def nested(depth: int) -> Any:
    return [] if depth == 0 else [nested(depth - 1)]


def test_text() -> None:
    assert FORMATS["text"].parse({"text": " a\n"}) == Document(" a\n")
    assert FORMATS["text"].parse({"text": "a", "url": "x", "id": 3, "meta": {"k": 1}, "labels": None}) == Document("a")


def test_prompt_completion() -> None:
    assert FORMATS["prompt_completion"].parse({"prompt": "", "completion": "b"}) == PromptCompletion("", "b")


def test_chat() -> None:
    parsed = FORMATS["chat"].parse(chat({"role": "system", "content": "s"}, USER, ANSWER))
    assert parsed == Conversation((Turn("system", "s"), Turn("user", "hi"), Turn("assistant", "yo", 1.0)))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((None, None), [1, 1]), ((0, None), [0, 1]), ((None, 0), [1, 0]), ((1, 0), [1, 0]), ((0.0, 1.0), [0, 1])],
)
def test_weights_of_answers(weights: tuple[float | None, ...], expected: list[float]) -> None:
    answers = [ANSWER if weight is None else ANSWER | {"weight": weight} for weight in weights]
    turns = FORMATS["chat"].parse(chat(USER, answers[0], USER, answers[1])).turns  # type: ignore[union-attr]
    assert [turn.weight for turn in turns if turn.role == "assistant"] == expected
    assert {turn.weight for turn in turns if turn.role != "assistant"} == {0.0}


def test_tools_are_kept() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "20C"}
    parsed = FORMATS["chat"].parse(chat(USER, calling, result, ANSWER, tools=[TOOL], parallel_tool_calls=False))
    assert isinstance(parsed, Conversation)
    assert parsed.tools == (TOOL,)
    assert parsed.turns[1].tool_calls == (
        {"id": "c1", "type": "function", "function": {"name": "w", "arguments": {"c": "SF"}}},
    )
    assert parsed.turns[2] == Turn("tool", "20C", tool_call_id="c1")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert FORMATS["chat"].parse(chat({"role": "user", "content": parts}, ANSWER)).turns[0].content == "ab"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("format", "record", "says"),
    [
        ("text", {}, "'text' is missing; give a string"),
        ("text", {"text": 3}, "'text' is a number, not a string"),
        ("text", {"text": ""}, "empty"),
        ("text", {"text": "a", "prompt": "b"}, "unknown key 'prompt'; allowed are text"),
        ("text", {"text": "a\ud800b"}, r"half a surrogate pair \(\\ud800\) at character 1"),
        ("prompt_completion", {"prompt": "a"}, "'completion' is missing"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "teaches nothing"),
        ("prompt_completion", {"prompt": "a", "completion": "b", "label": True}, "unknown key 'label'"),
        ("chat", {}, "'messages' is missing"),
        ("chat", {"messages": []}, "'messages' is an empty array"),
        ("chat", {"messages": "hi"}, "'messages' is a string"),
        ("chat", chat(USER), "no assistant message"),
        ("chat", chat(USER, ANSWER | {"weight": 0}), "every assistant message has weight 0"),
        ("chat", chat("hi", ANSWER), r"messages\[0\] is a string"),
        ("chat", chat({"content": "a"}, ANSWER), r"messages\[0\]: 'role' is missing; allowed are system, developer"),
        ("chat", chat({"role": "human", "content": "a"}, ANSWER), "'role' is 'human'"),
        ("chat", chat({"role": ["user"], "content": "a"}, ANSWER), "'role' is"),
        ("chat", chat({"role": "user"}, ANSWER), r"messages\[0\]: 'content' is missing"),
        ("chat", chat(USER | {"weight": 1}, ANSWER), "'weight' stands on a user message"),
        ("chat", chat(USER, ANSWER | {"weight": 0.5}), "'weight' is 0.5; allowed are 0 .* and 1"),
        ("chat", chat(USER, ANSWER | {"weight": True}), "'weight' is True"),
        ("chat", chat(USER, ANSWER | {"loss": 1}), r"messages\[1\] has the unknown key 'loss'"),
        ("chat", chat(USER | {"tool_calls": []}, ANSWER), "unknown key 'tool_calls'"),
        ("chat", chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "'image_url'; only text parts"),
        ("chat", chat(USER, ANSWER, label=1), "unknown key 'label'"),
        ("chat", chat(USER, ANSWER, tools={}), "'tools' is an object; give an array"),
        ("chat", chat(USER, ANSWER, tools=[{"name": "w"}]), r"tools\[0\] has no 'function' object"),
        ("chat", chat(USER, ANSWER, tools=[nested(70)]), "more than 64 levels"),
        ("chat", chat(USER, ANSWER | {"tool_calls": [{"id": "1"}]}), r"tool_calls\[0\] has no 'function'"),
        ("chat", chat(USER, ANSWER | {"tool_calls": [{"function": {"name": ""}}]}), "no 'name'"),
        ("chat", chat(USER, ANSWER | {"tool_calls": [{"function": {"name": "w", "arguments": "{"}}]}), "not JSON"),
        (
            "chat",
            chat(USER, ANSWER | {"tool_calls": [{"function": {"name": "w", "arguments": "[1]"}}]}),
            "an array; give",
        ),
        ("chat", chat(USER, ANSWER | {"tool_calls": [{"function": {"name": "w", "arguments": '{"a":NaN}'}}]}), "NaN"),
        ("chat", chat(*[USER] * 2048, ANSWER), "2049 messages; at most 2048"),
        ("chat", chat(USER | {"name": "x" * 300}, ANSWER), "at most 256"),
        ("chat", chat(USER, ANSWER | {"content": "\udfff"}), "surrogate"),
    ],
)
def test_what_is_refused_and_how(format: str, record: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FORMATS[format].parse(record)


KEYS = (
    "text",
    "prompt",
    "completion",
    "messages",
    "tools",
    "role",
    "content",
    "weight",
    "tool_calls",
    "function",
    "id",
)
keys = st.sampled_from(KEYS) | st.text(max_size=3)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(FORMATS)), st.dictionaries(keys, any_json, max_size=4))
def test_any_record_is_read_or_refused(format: str, record: dict[str, Any]) -> None:
    try:
        example = FORMATS[format].parse(record)
    except ValueError:
        return
    assert isinstance(example, FORMATS[format].yields)
