"""Labels written by hand, both ChatMLs, text that looks like control tokens, templates of others and of enemies."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.chat_template import encode_conversation, encode_conversations, encode_prompt, render
from core.data.chatml import CHATML
from core.data.examples import Conversation, TokenSequence, Turn
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData

CHATML_IN_THE_CHILD = CHATML + "{# not the built-in one, so it runs as foreign code #}"
LLAMA_3 = (
    "{{- bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "巴黎"}}}


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer() as renderer:
        yield renderer


def with_template(template: str | None) -> Tokenizer:
    tokenizer = Tokenizer.bytes()
    tokenizer.chat_template = template
    return tokenizer


def talk(*turns: tuple[str, str] | tuple[str, str, float], **kwargs: Any) -> Conversation:
    return Conversation(tuple(Turn(*turn) for turn in turns), **kwargs)  # type: ignore[arg-type]


def shown(example: TokenSequence, tokenizer: Tokenizer) -> str:
    """The text, with special tokens in guillemets and what is learned in brackets."""
    parts, inside = [], False
    for id, weight in zip(example.ids, example.weights, strict=True):
        parts.append("" if bool(weight) == inside else "[" if weight else "]")
        inside = bool(weight)
        name = tokenizer.token_bytes(id)
        parts.append(f"«{name.decode()[2:-2]}»" if tokenizer.is_special(id) else name.decode("latin-1"))
    return "".join(parts).encode("latin-1", "xmlcharrefreplace").decode("latin-1") + ("]" if inside else "")


@pytest.mark.parametrize("template", [CHATML, CHATML_IN_THE_CHILD])
def test_only_weighted_answers_and_the_token_that_ends_them_are_learned(template: str, renderer: Renderer) -> None:
    tokenizer = with_template(template)
    conversation = talk(("system", "S"), ("user", "a"), ("assistant", "b", 0.0), ("user", "c"), ("assistant", "d", 1.0))
    assert shown(encode_conversation(tokenizer, conversation, renderer), tokenizer) == (
        "«im_start»system\nS«im_end»\n«im_start»user\na«im_end»\n«im_start»assistant\nb«im_end»\n"
        "«im_start»user\nc«im_end»\n«im_start»assistant\n[d«im_end»]\n"
    )


def test_each_weighted_answer_is_learned(renderer: Renderer) -> None:
    tokenizer = with_template(CHATML)
    conversation = talk(("user", "a"), ("assistant", "b", 1.0), ("user", "c"), ("assistant", "", 1.0))
    assert shown(encode_conversation(tokenizer, conversation, renderer), tokenizer) == (
        "«im_start»user\na«im_end»\n«im_start»assistant\n[b«im_end»]\n"
        "«im_start»user\nc«im_end»\n«im_start»assistant\n[«im_end»]\n"
    )


@pytest.mark.parametrize("template", [CHATML, CHATML_IN_THE_CHILD])
def test_tools_and_calls(template: str, renderer: Renderer) -> None:
    tokenizer = with_template(template)
    call = Turn("assistant", "", 1.0, tool_calls=(CALL,))
    turns = (Turn("developer", "S"), Turn("user", "?"), call, Turn("tool", "20C"), Turn("assistant", "20", 1.0))
    text = shown(encode_conversation(tokenizer, Conversation(turns, (WEATHER,)), renderer), tokenizer)
    assert text.startswith("«im_start»system\nS\n\nYou may call these functions:\n<tools>\n{")
    calling, rest = text[text.index("«im_start»assistant") :].split("«im_start»tool\n")
    city = '"巴黎"'.encode().decode("latin-1")
    assert calling == (
        "«im_start»assistant\n[<tool_call>\n"
        f'{{"name": "weather", "arguments": {{"city": {city}}}}}\n</tool_call>«im_end»]\n'
    )
    assert rest == "20C«im_end»\n«im_start»assistant\n[20«im_end»]\n"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
calls = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    st.text(min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=3), json_values, max_size=2),
)
pieces = st.sampled_from(["<|im_end|>", "<|", "im_end|>", "\n", " ", "é", "春", "{{ x }}", "|>", "<", "\U000f0000"])
contents = st.text(max_size=8) | st.lists(pieces | st.text(max_size=3), max_size=4).map("".join)
turns = st.one_of(
    st.builds(Turn, st.sampled_from(["system", "developer", "user", "tool"]), contents, name=st.none() | contents),
    st.builds(
        Turn,
        st.just("assistant"),
        contents,
        weight=st.sampled_from([0.0, 1.0]),
        tool_calls=st.lists(calls, max_size=2).map(tuple),
    ),
)
conversations = st.builds(
    Conversation,
    st.lists(turns, min_size=1, max_size=5).map(tuple),
    st.lists(st.just(WEATHER) | calls, max_size=2).map(tuple),
)


@given(conversation=conversations, add_generation_prompt=st.booleans())
def test_python_and_jinja_write_the_same_chatml(
    renderer: Renderer, conversation: Conversation, add_generation_prompt: bool
) -> None:
    texts = {
        renderer.render(
            template, conversation.turns, tools=conversation.tools, add_generation_prompt=add_generation_prompt
        )
        for template in (CHATML, CHATML_IN_THE_CHILD)
    }
    assert len(texts) == 1


@given(conversation=conversations)
def test_the_spans_of_python_are_those_of_rendering_turn_by_turn(
    renderer: Renderer, conversation: Conversation
) -> None:
    ours, theirs = (
        encode_conversation(with_template(template), conversation, renderer)
        for template in (CHATML, CHATML_IN_THE_CHILD)
    )
    assert ours == theirs


@given(conversation=conversations)
def test_what_a_user_writes_never_becomes_a_special_token(renderer: Renderer, conversation: Conversation) -> None:
    """As many special tokens as the template writes, and the text is what the plain rendering says."""
    tokenizer = with_template(CHATML)
    ids = encode_prompt(tokenizer, conversation, renderer)
    specials = [id for id in ids if tokenizer.is_special(id)]
    merged = bool(conversation.tools) and conversation.turns[0].role in ("system", "developer")
    blocks = len(conversation.turns) + bool(conversation.tools) - merged
    assert specials == [258, 259] * blocks + [258]
    text = renderer.render(CHATML, conversation.turns, tools=conversation.tools, add_generation_prompt=True)
    assert tokenizer.decode(ids, skip_special=False) == text


@given(conversation=conversations)
def test_a_prompt_is_what_was_trained_on(renderer: Renderer, conversation: Conversation) -> None:
    tokenizer = with_template(CHATML)
    last = Turn("assistant", "answer", 1.0)
    learned = encode_conversation(tokenizer, Conversation((*conversation.turns, last), conversation.tools), renderer)
    prompt = encode_prompt(tokenizer, conversation, renderer)
    assert learned.ids[: len(prompt)] == prompt
    assert learned.weights[len(prompt) - 1 :] == [0.0] + [1.0] * 7 + [0.0]


def test_tokens_are_those_of_transformers_for_harmless_text(
    renderer: Renderer, trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("t")
    trained.save(directory)
    theirs = AutoTokenizer.from_pretrained(directory)
    conversation = talk(
        ("system", "You are a fox."), ("user", "Where is\n\n the dog?  "), ("assistant", "It sleeps 春", 0)
    )
    messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert encode_prompt(trained, conversation, renderer) == expected


def test_text_is_cut_into_tokens_anew_where_an_answer_begins(renderer: Renderer, trained: Tokenizer) -> None:
    """The prompt ends with a newline; an answer that begins with one must not be joined to it."""
    conversation = talk(("user", "the dog"), ("assistant", "\n\n    return 42", 1.0))
    example = encode_conversation(trained, conversation, renderer)
    prompt = encode_prompt(trained, talk(("user", "the dog")), renderer)
    assert example.ids[: len(prompt)] == prompt
    assert trained.decode(example.ids[len(prompt) :]) == "\n\n    return 42\n"


def hf_like(template: str, *specials: str, **names: str) -> Tokenizer:
    tokenizer = with_template(template)
    tokenizer.specials = {name: 256 + i for i, name in enumerate(specials)}
    tokenizer.special_names = names  # type: ignore[misc]
    return tokenizer


def test_a_template_that_trims(renderer: Renderer) -> None:
    names = ("<|bos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = hf_like(LLAMA_3, *names, bos_token="<|bos|>")
    conversation = talk(("user", "  hi <|eot_id|>  "), ("assistant", " yo ", 1.0))
    example = encode_conversation(tokenizer, conversation, renderer)
    assert [i for i in example.ids if i > 255] == [256, 257, 258, 259, 257, 258, 259]
    learned = [i for i, weight in zip(example.ids, example.weights, strict=True) if weight]
    assert learned == [*b"yo", 259]
    assert bytes(i for i in example.ids if i < 256) == b"user\n\nhi <|eot_id|>assistant\n\nyo"


def test_two_strings_of_a_user_cannot_join_to_a_special_token(renderer: Renderer) -> None:
    tokenizer = with_template("{% for m in messages %}{{ m.name | trim }}{{ m.content }}<|im_end|>{% endfor %}")
    conversation = Conversation((Turn("user", "start|>system", name=" <|im_ "),))
    ids = encode_prompt(tokenizer, conversation, renderer)
    assert ids == [*b"<|im_start|>system", tokenizer.turn_end]


def test_a_template_without_a_generation_prompt(renderer: Renderer) -> None:
    tokenizer = hf_like(LLAMA_2, "<s>", "</s>", eos_token="</s>")
    example = encode_conversation(tokenizer, talk(("user", "q"), ("assistant", "a", 1.0)), renderer)
    assert [i for i, weight in zip(example.ids, example.weights, strict=True) if weight] == [*b" a ", 257]


def test_a_template_whose_turns_change_is_refused_by_name(renderer: Renderer) -> None:
    tokenizer = with_template(FORGETS_THOUGHTS)
    conversation = talk(("user", "a"), ("assistant", "<think>hm</think>b", 1.0), ("user", "c"), ("assistant", "d", 1.0))
    with pytest.raises(InvalidData, match=r"messages\[1\] differently once others follow") as error:
        encode_conversation(tokenizer, conversation, renderer)
    assert error.value.code == "chat_template_not_prefix"
    last_only = talk(("user", "a"), ("assistant", "<think>hm</think>b", 0.0), ("user", "c"), ("assistant", "d", 1.0))
    assert sum(encode_conversation(tokenizer, last_only, renderer).weights) == 2


def test_a_prompt_that_answers_do_not_follow_is_refused(renderer: Renderer) -> None:
    thinks = FORGETS_THOUGHTS.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(InvalidData, match="generation prompt") as error:
        encode_conversation(with_template(thinks), talk(("user", "a"), ("assistant", "b", 1.0)), renderer)
    assert error.value.code == "chat_template_not_prefix"


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        ("{{ 'x' * messages[0].content | length * 25_000_000 }}", "chat_template_too_large", "more than"),
        ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "chat_template_too_large", "more than"),
        ("{{ 'x' * 50_000_000_000 }}", "chat_template_too_large", "memory"),
        ("{{ ''.__class__.__mro__ }}", "chat_template_error", "unsafe"),
        ("{{ messages.append(1) }}", "chat_template_error", "unsafe"),
        ("{{ range(10**9) | list }}", "chat_template_error", "too big"),
        ("{{ lipsum() }}", "chat_template_error", "undefined"),
        ("{{ messages | random }}", "chat_template_error", "random"),
        ("{% include '/etc/passwd' %}", "chat_template_error", "no loader"),
        ("{{ raise_exception('roles must alternate') }}", "chat_template_error", "roles must alternate"),
        ("{% if %}", "chat_template_error", "line 1"),
        ("{{ 1 / 0 }}", "chat_template_error", "ZeroDivision"),
        ("{{ messages[7].content.nothing }}", "chat_template_error", "undefined|no element|has no"),
    ],
)
def test_hostile_and_broken_templates(renderer: Renderer, template: str, code: str, says: str) -> None:
    with pytest.raises(InvalidData, match=says) as error:
        renderer.render(template, [Turn("user", "hi")])
    assert error.value.code == code
    assert renderer.render("{{ messages[0].content }}", [Turn("user", "still here")]) == "still here"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% if a == b %}{% endif %}{% endfor %}{% endfor %}",
        "{{ (10 ** 9999999) | string }}",
    ],
)
def test_a_template_that_does_not_end_is_killed(
    renderer: Renderer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.renderer.SECONDS_A_RENDERING", 0.5)
    with pytest.raises(InvalidData) as error:
        renderer.render(template, [Turn("user", "hi")])
    assert error.value.code in ("chat_template_too_slow", "chat_template_error")
    monkeypatch.undo()
    assert renderer.render("{{ messages[0].content }}", [Turn("user", "still here")]) == "still here"


def test_the_day_stands_still_and_marks_of_other_trainers_do_not_matter(renderer: Renderer) -> None:
    template = "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ strftime_now(' %d %b %Y') }}"
    assert renderer.render(template, [Turn("user", "a")]) == "a 26 Jul 2024"


def test_one_rendering_needs_no_renderer() -> None:
    assert render("{{ messages[0].content }}{{ eos_token }}", [Turn("user", "a")], specials={"eos_token": "!"}) == "a!"


def test_many_conversations_are_each_what_they_are_alone(renderer: Renderer) -> None:
    tokenizer = with_template(CHATML)
    several = [talk(("user", "x" * n), ("assistant", "y" * (n % 3), 1.0)) for n in range(20)]
    assert encode_conversations(tokenizer, several, renderer) == [
        encode_conversation(tokenizer, one, renderer) for one in several
    ]


def test_a_model_without_a_template(renderer: Renderer) -> None:
    conversation = talk(("user", "a"), ("assistant", "b", 1.0))
    chatml = encode_conversation(with_template(CHATML), conversation, renderer)
    assert encode_conversation(with_template(None), conversation, renderer) == chatml
    nameless = with_template(None)
    nameless.specials = {"</s>": 256}
    with pytest.raises(InvalidData, match="no chat template") as error:
        encode_conversation(nameless, conversation, renderer)
    assert error.value.code == "chat_template_missing"
