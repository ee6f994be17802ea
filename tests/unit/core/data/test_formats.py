from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.detection import formats_of
from core.data.examples import (
    Conversation,
    Document,
    Example,
    GradedPrompt,
    Judged,
    Labelled,
    Preference,
    PromptCompletion,
    Question,
    Scored,
    Similar,
    Tagged,
    TextPair,
    Turn,
    characters,
    labels_of,
)
from core.data.formats import FORMATS, FormatName

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


ASKED, YES, NO = Turn("user", "hi"), Turn("assistant", "yo", 1.0), Turn("assistant", "no", 1.0)
BAD = {"role": "assistant", "content": "no"}
OPENAI = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [BAD]}
CONTEXT = "Ångström was born in Lögdö, near Sundsvall."
ABOUT = {"question": "Where?", "context": CONTEXT}
TALK = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]


@pytest.mark.parametrize(
    ("format", "record", "example"),
    [
        (
            "preference",
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            Preference(PromptCompletion("p", "a"), PromptCompletion("p", "b")),
        ),
        (
            "preference",
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]},
            Preference(Conversation((ASKED, YES)), Conversation((ASKED, NO))),
        ),
        ("preference", OPENAI, Preference(Conversation((ASKED, YES)), Conversation((ASKED, NO)))),
        (
            "preference",
            {"chosen": [USER, ANSWER], "rejected": [USER, BAD], "score": 3},
            Preference(Conversation((ASKED, YES)), Conversation((ASKED, NO))),
        ),
        (
            "preference",
            {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
            Preference(Conversation((ASKED, YES)), Conversation((ASKED, NO))),
        ),
        (
            "preference",
            {"conversations": TALK[:1], "chosen": TALK[1], "rejected": {"from": "gpt", "value": "no"}},
            Preference(Conversation((ASKED, YES)), Conversation((ASKED, NO))),
        ),
        (
            "kto",
            {"prompt": "p", "completion": "c", "label": False},
            Judged(PromptCompletion("p", "c"), is_good=False),
        ),
        ("kto", {"prompt": "p", "completion": "c", "label": "True"}, Judged(PromptCompletion("p", "c"), is_good=True)),
        (
            "kto",
            {"prompt": [USER], "completion": [ANSWER], "label": True},
            Judged(Conversation((ASKED, YES)), is_good=True),
        ),
        ("kto", {"messages": [USER, ANSWER], "label": True}, Judged(Conversation((ASKED, YES)), is_good=True)),
        ("alpaca", {"instruction": "hi", "input": "", "output": "yo"}, Conversation((ASKED, YES))),
        (
            "alpaca",
            {"instruction": "h", "input": "i", "output": "yo", "system": "s", "history": [["hi", "no"]]},
            Conversation((Turn("system", "s"), ASKED, NO, Turn("user", "h\ni"), YES)),
        ),
        ("sharegpt", {"conversations": TALK}, Conversation((ASKED, YES))),
        ("sharegpt", {"conversations": TALK, "system": "s"}, Conversation((Turn("system", "s"), ASKED, YES))),
        ("labelled", {"text": "a", "label": "x"}, Labelled("a", None, (("x", 1.0),))),
        ("labelled", {"sentence": "a", "pair": "b", "label": 3}, Labelled("a", "b", (("3", 1.0),))),
        ("labelled", {"text": "a", "pair": "", "label": True}, Labelled("a", None, (("true", 1.0),))),
        ("labelled", {"text": "a", "labels": ["x", 2]}, Labelled("a", None, (("x", 1.0), ("2", 1.0)), many=True)),
        ("labelled", {"text": "a", "labels": []}, Labelled("a", None, (), many=True)),
        ("labelled", {"text": "a", "labels": {"x": 0.75, "y": 0.25}}, Labelled("a", None, (("x", 0.75), ("y", 0.25)))),
        ("scored", {"text": "a", "score": 3}, Scored("a", None, 3.0)),
        ("scored", {"sentence": "a", "pair": "b", "score": "-0.5", "title": "t"}, Scored("a", "b", -0.5)),
        ("text_pair", {"source": "a", "target": "b"}, TextPair("a", "b")),
        ("text_pair", {"translation": {"en": "a", "de": "b"}, "id": "1"}, TextPair("a", "b")),
        ("text_pair", {"translation": {"de": "b", "en": "a"}}, TextPair("b", "a")),
        ("text_pair", {"document": "long", "summary": "s"}, TextPair("long", "s")),
        ("tagged", {"tokens": ["New", "York"], "tags": ["B", 1]}, Tagged(("New", "York"), ("B", "1"))),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": 21}, Question("Where?", CONTEXT, "Lögdö", 21)),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": "21"}, Question("Where?", CONTEXT, "Lögdö", 21)),
        ("question", {**ABOUT, "answer": "Sundsvall"}, Question("Where?", CONTEXT, "Sundsvall", 33)),
        (
            "question",
            {**ABOUT, "answers": {"text": ["Lögdö", "near Sundsvall"], "answer_start": [21, 28]}, "id": "1"},
            Question("Where?", CONTEXT, "Lögdö", 21),
        ),
        ("question", {**ABOUT, "answers": {"text": [], "answer_start": []}}, Question("Where?", CONTEXT, "", -1)),
        ("question", {**ABOUT, "answer": None}, Question("Where?", CONTEXT, "", -1)),
        ("question", {**ABOUT, "answer": "", "answer_start": ""}, Question("Where?", CONTEXT, "", -1)),
        ("similar", {"anchor": "a", "positive": "b"}, Similar("a", "b")),
        ("similar", {"anchor": "a", "positive": "b", "negative": "c"}, Similar("a", "b", "c")),
        ("similar", {"anchor": "a", "positive": "b", "negative": ""}, Similar("a", "b")),
        (
            "graded",
            {"messages": [USER], "reference_answer": "42", "level": 3, "tools": [TOOL]},
            GradedPrompt(Conversation((ASKED,), (TOOL,)), {"reference_answer": "42", "level": 3}),
        ),
    ],
)
def test_what_a_record_means(format: FormatName, record: dict[str, Any], example: Example) -> None:
    assert FORMATS[format].parse(record) == example
    assert formats_of(record) == [format]


def test_graders_judge_the_next_answer_and_nothing_before_it() -> None:
    earlier = (ASKED, Turn("assistant", "yo"), ASKED)
    assert FORMATS["graded"].parse(chat(USER, ANSWER, USER)) == GradedPrompt(Conversation(earlier), {})


def test_only_the_answers_of_a_preference_are_learned() -> None:
    tools = [TOOL]
    asked = {"messages": [{"role": "system", "content": "s"}, USER, ANSWER, USER], "tools": tools}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    chosen = [calling, {"role": "tool", "tool_call_id": "c1", "content": "20C"}, ANSWER]
    parsed = FORMATS["preference"].parse({**OPENAI, "input": asked, "preferred_output": chosen})
    assert isinstance(parsed, Preference)
    assert isinstance(parsed.chosen, Conversation)
    assert [turn.weight for turn in parsed.chosen.turns] == [0, 0, 0, 0, 1, 0, 1]
    assert parsed.chosen.tools == parsed.rejected.tools == (TOOL,)  # type: ignore[union-attr]


def test_whole_conversations_of_which_the_answers_differ_only_at_the_end() -> None:
    again = [USER, ANSWER, USER]
    parsed = FORMATS["preference"].parse({"chosen": [*again, ANSWER], "rejected": [*again, BAD]})
    assert isinstance(parsed, Preference)
    assert [turn.weight for turn in parsed.chosen.turns] == [0, 0, 0, 1]  # type: ignore[union-attr]
    assert [turn.weight for turn in parsed.rejected.turns] == [0, 0, 0, 1]  # type: ignore[union-attr]


def test_calls_of_sharegpt() -> None:
    calls = '[{"name": "w", "arguments": {"c": "SF"}}, {"name": "w", "arguments": "{}"}]'
    turns = [TALK[0], {"from": "function_call", "value": calls}, {"from": "observation", "value": "20C"}, TALK[1]]
    tools = '[{"name": "w", "parameters": {}}]'
    parsed = FORMATS["sharegpt"].parse({"conversations": turns, "tools": tools})
    assert isinstance(parsed, Conversation)
    assert parsed.tools == (TOOL,)
    assert parsed.turns[1].tool_calls == (
        {"type": "function", "function": {"name": "w", "arguments": {"c": "SF"}}},
        {"type": "function", "function": {"name": "w", "arguments": {}}},
    )
    assert [(turn.role, turn.weight) for turn in parsed.turns] == [
        *[("user", 0), ("assistant", 1), ("tool", 0), ("assistant", 1)]
    ]
    assert FORMATS["sharegpt"].parse({"conversations": TALK, "tools": ""}).tools == ()  # type: ignore[union-attr]


def test_probabilities_that_were_rounded_sum_to_one() -> None:
    parsed = FORMATS["labelled"].parse({"text": "a", "labels": {"x": 0.333, "y": 0.333, "z": 0.3335}})
    assert isinstance(parsed, Labelled)
    assert sum(share for _, share in parsed.labels) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("format", "record", "says"),
    [
        ("preference", {"prompt": "p", "chosen": "a"}, "'chosen' is a string and 'rejected' is missing"),
        ("preference", {"prompt": "p", "chosen": "a", "rejected": "a"}, "are the same, so neither is better"),
        ("preference", {"prompt": "p", "chosen": "", "rejected": "a"}, "'chosen' is empty"),
        ("preference", {"prompt": "p", "chosen": [ANSWER], "rejected": "a"}, "'rejected' is a string; give a string"),
        ("preference", {"chosen": "a", "rejected": "b"}, "no 'prompt'; cut what"),
        ("preference", {"prompt": "p", "chosen": "a", "rejected": "b", "tools": []}, "unknown key 'tools'"),
        ("preference", {"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, r"chosen\[0\] is from the user"),
        ("preference", {"prompt": [USER], "chosen": [], "rejected": [BAD]}, "'chosen' is an empty array"),
        ("preference", {"chosen": [USER, ANSWER], "rejected": [USER, USER]}, r"rejected\[1\] is from the user"),
        ("preference", {"chosen": [ANSWER], "rejected": [BAD]}, "do not begin with the same message"),
        ("preference", {"prompt": "x", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, "'prompt' is a string"),
        ("preference", OPENAI | {"input": "hi"}, "'input' is a string; give an object with 'messages'"),
        ("preference", OPENAI | {"input": {"messages": [USER], "user": 1}}, "'input' has the unknown key 'user'"),
        ("preference", OPENAI | {"preferred_output": [{"role": "tool", "content": "x"}]}, "no assistant message"),
        ("preference", OPENAI | {"non_preferred_output": None}, "'non_preferred_output' is missing"),
        (
            "preference",
            {"conversations": TALK, "chosen": TALK[0], "rejected": TALK[1]},
            r"chosen\[0\] is from the user",
        ),
        ("kto", {"prompt": "p", "completion": "c", "label": 1}, "'label' is 1; allowed are true and false"),
        ("kto", {"prompt": "p", "completion": "c"}, "'label' is missing"),
        ("kto", {"prompt": "p", "completion": [ANSWER], "label": True}, "'completion' is an array, not a string"),
        ("kto", {"prompt": [USER], "completion": [USER], "label": True}, r"completion\[0\] is from the user"),
        ("kto", {"messages": [USER, ANSWER, USER], "label": True}, r"messages\[2\] is from the user"),
        ("kto", {"messages": [ANSWER], "label": True}, "only the answer; put the prompt before"),
        ("alpaca", {"instruction": "", "input": "", "output": "b"}, "'instruction' is empty"),
        ("alpaca", {"instruction": "a", "output": " "}, "'output' is empty"),
        ("alpaca", {"instruction": "a", "output": "b", "response": "c"}, "unknown key 'response'"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["x"]]}, r"history\[0\] is no pair of strings"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "x"}, "'history' is a string; give an array"),
        ("sharegpt", {"conversations": []}, "'conversations' is an empty array"),
        ("sharegpt", {"conversations": TALK[:1]}, "no assistant message"),
        (
            "sharegpt",
            {"conversations": [{"from": "bot", "value": "x"}]},
            "'from' is 'bot'; allowed are human, user, gpt",
        ),
        ("sharegpt", {"conversations": [{"from": "human", "text": "x"}]}, "unknown key 'text'"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "w()"}]}, "is not JSON"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "3"}]}, "value' is '3'; give"),
        ("sharegpt", {"conversations": TALK, "tools": "{"}, "'tools' is not JSON"),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "s"}, *TALK], "system": "s"},
            "keep one of them",
        ),
        ("labelled", {"text": " ", "label": "x"}, "'text' is empty"),
        ("labelled", {"text": "a", "label": ""}, "'label' is ''; give a name of 1 to 256 characters"),
        ("labelled", {"text": "a", "label": "x" * 257}, "give a name of 1 to 256"),
        ("labelled", {"text": "a", "label": 0.5}, "call it 'score'"),
        ("labelled", {"text": "a", "label": ["x"]}, "write several as 'labels'"),
        ("labelled", {"text": "a", "labels": "x"}, "'labels' is a string; give an array"),
        ("labelled", {"text": "a", "labels": ["x", "x"]}, "names 'x' twice"),
        ("labelled", {"text": "a", "labels": ["x", None]}, r"labels\[1\] is missing"),
        ("labelled", {"text": "a", "labels": {"x": 0.6, "y": 0.6}}, "sum to 1.2; give numbers from 0 that sum to 1"),
        ("labelled", {"text": "a", "labels": {"x": 1.5, "y": -0.5}}, "sum to 1; give numbers from 0"),
        ("labelled", {"text": "a", "labels": {"x": "much"}}, "'x' is 'much'; give a number"),
        ("labelled", {"text": "a", "labels": {str(i): 0 for i in range(2000)}}, "2000 classes; at most 1024"),
        ("labelled", {"text": "a", "labels": [str(i) for i in range(2000)]}, "2000 items; at most 1024"),
        ("labelled", {"text": "a", "label": "x", "labels": ["x"]}, "unknown key 'labels'"),
        ("scored", {"text": "a", "score": "high"}, "'score' is 'high'; give a number"),
        ("scored", {"text": "a", "score": True}, "'score' is True; give a number"),
        ("scored", {"text": "a", "score": "nan"}, "give a number between"),
        ("scored", {"text": "a", "score": 1e31}, "give a number between"),
        ("scored", {"text": "a", "score": 10**400}, "give a number between"),
        ("text_pair", {"source": "a", "target": ""}, "'target' is empty"),
        ("text_pair", {"source": "a"}, "'target' is missing"),
        ("text_pair", {"translation": {"en": "a"}}, "has 'en'; give an object with two languages"),
        ("text_pair", {"translation": {"en": "a", "de": 3}}, "'de' is a number, not a string"),
        ("text_pair", {"translation": ["a", "b"]}, "has an array; give an object with two languages"),
        ("tagged", {"tokens": ["a"], "tags": ["x", "y"]}, "1 tokens and 2 tags"),
        ("tagged", {"tokens": [], "tags": []}, "empty array"),
        ("tagged", {"tokens": ["a", " "], "tags": ["x", "y"]}, r"tokens\[1\] is ' '; give a word"),
        ("tagged", {"tokens": ["a"], "tags": [None]}, r"tags\[0\] is missing"),
        ("tagged", {"tokens": "a b", "tags": "x y"}, "'tokens' is a string; give an array"),
        ("tagged", {"tokens": ["a"] * 70_000, "tags": ["x"] * 70_000}, "70000 items; at most 65536"),
        ("question", {**ABOUT, "answer": "Umeå"}, "does not contain the answer 'Umeå'; copy"),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": 23}, "at character 23 of the context stands 'gdö, '"),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": 23}, "which stands at 21; count Unicode characters"),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": 500}, "stands nothing"),
        ("question", {**ABOUT, "answer": "Lögdö", "answer_start": -22}, "stands nothing"),
        ("question", {**ABOUT, "answer": "a", "answer_start": 1.5}, "'answer_start' is 1.5; give a whole number"),
        ("question", {**ABOUT, "answer": "n"}, "more than once; say by 'answer_start'"),
        ("question", {**ABOUT, "answers": {"text": ["a"], "answer_start": []}}, "as many places as texts"),
        ("question", {**ABOUT, "answers": ["a"]}, "give {'text':"),
        ("similar", {"anchor": "a"}, "'positive' is missing"),
        ("similar", {"anchor": "a", "positive": ""}, "'positive' is empty"),
        ("similar", {"anchor": "a", "positive": "b", "negative": "b"}, "the same as its anchor or positive"),
        (
            "graded",
            {"messages": [USER, ANSWER], "reference_answer": "x"},
            "from the assistant, but the model is to answer",
        ),
        ("graded", {"reference_answer": "x"}, "'messages' is missing"),
        ("graded", {"messages": [USER], "reference_answer": nested(70)}, "more than 64 levels"),
        ("graded", {"messages": [USER], "x" * 300: 1}, "is too long; at most 256"),
        ("graded", {"messages": [USER], **{str(i): i for i in range(300)}}, "300 keys; at most 256"),
        ("text", {}, "'text' is missing; give a string"),
        ("text", {"text": 3}, "'text' is a number, not a string"),
        ("text", {"text": ""}, "empty"),
        ("text", {"text": "a", "prompt": "b"}, "unknown key 'prompt'; allowed are text"),
        ("text", {"text": "a\ud800b"}, r"half a surrogate pair \(\\ud800\) at character 1"),
        ("prompt_completion", {"prompt": "a"}, "'completion' is missing"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "teaches nothing"),
        ("prompt_completion", {"prompt": "a", "completion": "b", "label": True}, "unknown key 'label'"),
        ("prompt_completion", {"prompt": [USER], "completion": [ANSWER]}, "write all of their messages"),
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
def test_what_is_refused_and_how(format: FormatName, record: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FORMATS[format].parse(record)


KEYS = [
    *sorted({key for known in FORMATS.values() for keys in known.keys for key in keys}),
    *("role", "content", "weight", "tool_calls", "function", "id", "tools", "pair", "negative", "history", "system"),
    *("from", "value", "answer_start", "name", "arguments"),
]
keys = st.sampled_from(KEYS) | st.text(max_size=3)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(("user", "gpt")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_any_record_is_read_or_refused(format: FormatName, data: st.DataObject) -> None:
    own = data.draw(st.sampled_from(FORMATS[format].keys))
    record = data.draw(st.fixed_dictionaries(dict.fromkeys(own, any_json))) | data.draw(
        st.dictionaries(keys, any_json, max_size=2)
    )
    assert set(formats_of(record)) <= set(FORMATS)
    try:
        example = FORMATS[format].parse(record)
    except ValueError:
        return
    assert isinstance(example, FORMATS[format].yields)
    characters(example), labels_of(example)


def test_the_listing_is_the_literal() -> None:
    assert tuple(FORMATS) == get_args(FormatName)
    assert [known.kind for known in FORMATS.values()] == list(FORMATS)
