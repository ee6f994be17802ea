"""Preferences and judged answers as tokens, against ids and weights written by hand."""

from collections.abc import Iterator

import pytest

from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder, Encoding
from core.data.examples import Conversation, Judged, Preference, PromptCompletion, TokenExample, Turn
from core.data.renderer import Renderer
from core.data.special_tokens import END_OF_TEXT, TURN_END, TURN_START
from core.data.tokenizer import Tokenizer

TOKENIZER = Tokenizer.bytes()
END, OPEN, CLOSE = (TOKENIZER.specials[name] for name in (END_OF_TEXT, TURN_START, TURN_END))


@pytest.fixture
def encoder() -> Iterator[Encoder]:
    with Renderer() as renderer:
        yield Encoder(TOKENIZER, renderer, Encoding(kind="plain", model="decoder"))


def only(encoded: list[list[TokenExample]]) -> TokenExample:
    ((example,),) = encoded
    return example


def chat(answer: str, *, earlier: tuple[Turn, ...] = ()) -> Conversation:
    return Conversation((*earlier, Turn("user", "?"), Turn("assistant", answer, weight=1.0)))


def learned(example: TokenExample) -> list[list[int]]:
    return [[id for id, weight in zip(s.ids, s.weights, strict=True) if weight] for s in example.sequences]


def test_each_answer_stands_behind_the_prompt_in_a_lane_of_its_own(encoder: Encoder) -> None:
    preference = Preference(PromptCompletion("ab", "c"), PromptCompletion("ab", "de"))
    chosen, rejected = only(encode_examples([preference], encoder)).sequences
    assert (chosen.ids, chosen.weights) == ([*b"abc", END], [0, 0, 1, 1])
    assert (rejected.ids, rejected.weights) == ([*b"abde", END], [0, 0, 1, 1, 1])


def test_of_conversations_only_the_last_answer_is_learned(encoder: Encoder) -> None:
    earlier = (Turn("user", "hi"), Turn("assistant", "yo", weight=0.0))
    preference = Preference(chat("good", earlier=earlier), chat("bad", earlier=earlier))
    example = only(encode_examples([preference], encoder))
    assert learned(example) == [[*b"good", CLOSE], [*b"bad", CLOSE]]
    prompt = [OPEN, *b"user\nhi", CLOSE, *b"\n", OPEN, *b"assistant\nyo", CLOSE, *b"\n", OPEN, *b"user\n?", CLOSE]
    prompt = [*prompt, *b"\n", OPEN, *b"assistant\n"]
    assert [sequence.ids[: len(prompt)] for sequence in example.sequences] == [prompt, prompt]


def test_a_judgement_is_a_label(encoder: Encoder) -> None:
    examples = [Judged(PromptCompletion("a", "b"), True), Judged(chat("no"), False), Judged(chat("yes"), True)]
    encoded = [only([made]) for made in encode_examples(examples, encoder)]
    assert [example.labels for example in encoded] == [(1.0,), (0.0,), (1.0,)]
    assert [learned(example) for example in encoded] == [[[*b"b", END]], [[*b"no", CLOSE]], [[*b"yes", CLOSE]]]
