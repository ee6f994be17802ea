"""What is refused before any tensor, and how tokens become lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.tokenizer import Tokenizer
from core.errors import InvalidRequest
from core.generation.continuation import continuations
from core.sampling_params import SamplingParams

from .conftest import Bench

TOKENIZER = Tokenizer.bytes()


def admit(*prompts: list[int], context: int = 10, **params: object) -> list[int]:
    answers = continuations(
        prompts,
        SamplingParams.model_validate(params),
        TOKENIZER,
        context_length=context,
        vocab_size=TOKENIZER.vocab_size,
    )
    return [answer.max_tokens for answer in answers]


def test_what_fits_is_admitted() -> None:
    assert admit([1] * 4, max_tokens=6) == [6]
    assert admit([1] * 4, [1] * 9, max_tokens=None) == [6, 1]
    assert admit([1] * 10, max_tokens=0) == [0]
    assert admit([1], n=3, max_tokens=2) == [2, 2, 2]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "param", "numbers"),
    [
        (5, 6, "max_tokens", "10 tokens. You asked for 11 (5 in the prompt, 6 to be generated)"),
        (10, None, "prompt", "10 tokens. You asked for 11 (10 in the prompt, 1 to be generated)"),
        (12, 0, "prompt", "10 tokens. You asked for 12 (12 in the prompt, 0 to be generated)"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    prompt: int, max_tokens: int | None, param: str, numbers: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        admit([1] * prompt, max_tokens=max_tokens)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", param)
    assert numbers in refused.value.message


@pytest.mark.parametrize(
    ("prompt", "bias", "param"),
    [
        ([10**6], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([], {}, "prompt"),
        ([1], {10**6: 1}, "logit_bias"),
        ([1], {-1: 1}, "logit_bias"),
    ],
)
def test_ids_that_do_not_exist_are_refused(prompt: list[int], bias: dict[int, float], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        admit(prompt, logit_bias=bias)
    assert refused.value.param == param


def test_a_stop_token_is_not_shown(bench: Bench, tokenizer: Tokenizer) -> None:
    [answer] = bench.finish("hello", max_tokens=9, logit_bias={tokenizer.end_of_text: 100}, logprobs=1)
    assert (bench.text(answer), bench.reason(answer)) == ("", "stop")
    assert [line.kind for line in bench.lines[answer]] == ["done"]


def test_a_stop_string_ends_the_answer(bench: Bench) -> None:
    [whole] = bench.finish("hello", max_tokens=30)
    text = bench.text(whole)
    stop = text[10:13]
    [answer] = bench.finish("hello", max_tokens=30, stop=[stop], logprobs=0)
    assert bench.text(answer) == text[: text.index(stop)]
    assert bench.reason(answer) == "stop"
    assert len(answer.tokens) < len(whole.tokens)


@settings(max_examples=40)
@given(
    st.lists(st.integers(-2, TOKENIZER.vocab_size + 2), max_size=12),
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.one_of(st.none(), st.integers(0, 30)),
            "n": st.integers(1, 3),
            "temperature": st.floats(0, 2),
            "top_p": st.floats(1e-9, 1),
            "top_k": st.integers(0, 10**6),
            "seed": st.integers(),
            "stop": st.lists(st.text(max_size=3), max_size=4),
            "logprobs": st.one_of(st.none(), st.integers(0, 20)),
            "echo": st.booleans(),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "logit_bias": st.dictionaries(st.integers(-2, TOKENIZER.vocab_size + 2), st.floats(-100, 100), max_size=4),
        },
    ),
)
def test_no_parameters_kill_the_engine_or_touch_a_neighbour(
    shared: tuple[Bench, list[int]], prompt: list[int], params: dict[str, object]
) -> None:
    bench, expected = shared
    [neighbour] = bench.submit("hello", max_tokens=12)
    try:
        answers = bench.submit(prompt, **params)
    except InvalidRequest:
        answers = []
    bench.run()
    assert neighbour.tokens == expected
    assert all(bench.reason(answer) for answer in answers)
    assert bench.num_used == 0


@pytest.fixture(scope="module")
def shared(decoder: object, tokenizer: Tokenizer) -> tuple[Bench, list[int]]:
    bench = Bench(decoder, tokenizer)  # type: ignore[arg-type]
    [answer] = bench.finish("hello", max_tokens=12)
    return bench, answer.tokens
