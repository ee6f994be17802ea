"""Texts with labels, tags, answers and counterparts as tokens, against ids, places and cuts written by hand."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder, Encoding
from core.data.encodings.question import overlapping
from core.data.encodings.question import windows as question_windows
from core.data.encodings.tagged import windows as tag_windows
from core.data.examples import Example, Labelled, Question, Scored, Similar, Tagged, TokenExample
from core.data.renderer import Renderer
from core.data.spans import encode_spans
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData

BYTES = Tokenizer.bytes()
END, CLS, SEP = BYTES.end_of_text, BYTES.class_token, BYTES.separator


def word_pieces() -> Tokenizer:
    """As BERT has it: lower case, words in pieces, [CLS] a [SEP] b [SEP]."""
    pieces = [
        "[UNK]",
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "un",
        "##happ",
        "##y",
        "jane",
        "wrote",
        "emma",
        "who",
        "it",
        "?",
        "the",
    ]
    hf = tokenizers.Tokenizer(models.WordPiece({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    hf.normalizer = normalizers.BertNormalizer(lowercase=True)
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in pieces[:4]])
    hf.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return Tokenizer(hf.to_str(), {"pad_token": "[PAD]"}, None)


BERT = word_pieces()


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer() as made:
        yield made


@pytest.fixture
def encode(renderer: Renderer) -> Any:
    def encoded(*examples: Example, tokenizer: Tokenizer = BYTES, model: str = "encoder", **encoding: Any) -> Any:
        encoder = Encoder(tokenizer, renderer, Encoding(kind="plain", model=model, **encoding))
        found = encode_examples(list(examples), encoder)
        return found if len(examples) > 1 else found[0]

    return encoded


def ids(example: TokenExample) -> list[list[int]]:
    return [sequence.ids for sequence in example.sequences]


ONE: dict[str, Any] = {"labels": ("bad", "good"), "settings": {"labels": "one"}}
MANY: dict[str, Any] = {"labels": ("a", "b", "c"), "settings": {"labels": "many"}}


def test_a_label_is_its_place_among_the_labels(encode: Any) -> None:
    plain, soft = Labelled("hi", None, (("good", 1.0),)), Labelled("ho", "x", (("good", 0.25), ("bad", 0.75)))
    (first,), (second,) = encode(plain, soft, **ONE)
    assert (ids(first), first.labels) == ([[CLS, *b"hi", SEP]], (0.0, 1.0))
    assert (ids(second), second.labels) == ([[CLS, *b"ho", SEP, *b"x", SEP]], (0.75, 0.25))
    (first,), (second,) = encode(plain, soft, model="decoder", **ONE)
    assert ids(first) == [[END, *b"hi", END]]
    assert ids(second) == [[END, *b"ho", END, *b"x", END]]


def test_many_labels_and_none(encode: Any) -> None:
    both, none = Labelled("t", None, (("c", 1.0), ("a", 1.0)), many=True), Labelled("t", None, (), many=True)
    assert [example.labels for (example,) in encode(both, none, **MANY)] == [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
    (single,) = encode(Labelled("t", None, (("b", 1.0),)), **MANY)
    assert single.labels == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("example", "encoding", "code", "words"),
    [
        (Labelled("t", None, (("awful", 1.0),)), ONE, "unknown_label", "'awful' is none of the model's: 'bad', 'good'"),
        (Labelled("t", None, (("good", 1.0),), many=True), ONE, "many_labels", "list of labels"),
        (Labelled("t", None, (("a", 0.5), ("b", 0.5))), MANY, "soft_labels", "probabilities"),
        (Tagged(("x",), ("B-Z",)), {"labels": ("O",)}, "unknown_label", "'B-Z'"),
        (Similar("a", "b"), {"settings": {"negatives": "hard"}}, "no_negative", "has no negative"),
    ],
)
def test_what_does_not_fit_is_refused(encode: Any, example: Example, encoding: Any, code: str, words: str) -> None:
    with pytest.raises(InvalidData, match=words) as refused:
        encode(example, **encoding)
    assert refused.value.code == code


def test_what_is_too_long_is_cut_at_the_longer_text(encode: Any) -> None:
    """Class token and separators stay; the whole fits the row."""
    (alone,) = encode(Labelled("abcdefgh", None, (("good", 1.0),)), window=6, **ONE)
    assert (ids(alone), alone.is_cut) == ([[CLS, *b"abcd", SEP]], True)
    (pair,) = encode(Labelled("abcdefgh", "xy", (("good", 1.0),)), window=9, **ONE)
    assert (ids(pair), pair.is_cut) == ([[CLS, *b"abcd", SEP, *b"xy", SEP]], True)
    (pair,) = encode(Labelled("ab", "uvwxyz", (("good", 1.0),)), window=9, **ONE)
    assert ids(pair) == [[CLS, *b"ab", SEP, *b"uvwx", SEP]]
    (even,) = encode(Scored("abcdef", "uvwxyz", 0.5), window=9)
    assert (ids(even), even.labels) == ([[CLS, *b"abc", SEP, *b"uvw", SEP]], (0.5,))
    (decoder,) = encode(Scored("abcdef", "uvwxyz", 0.5), window=9, model="decoder")
    assert ids(decoder) == [[END, *b"abc", END, *b"uvw", END]]
    (fits,) = encode(Scored("abcdef", None, 0.5), window=8)
    assert (ids(fits), fits.is_cut) == ([[CLS, *b"abcdef", SEP]], False)


def test_counterparts_lie_in_lanes(encode: Any) -> None:
    (example,) = encode(Similar("a", "bc", "d"), settings={"negatives": "hard"})
    assert ids(example) == [[CLS, *b"a", SEP], [CLS, *b"bc", SEP], [CLS, *b"d", SEP]]
    (example,) = encode(Similar("a", "bc", "d"), settings={"negatives": "in_batch"})
    assert ids(example) == [[CLS, *b"a", SEP], [CLS, *b"bc", SEP]]


def learned(example: TokenExample) -> list[tuple[int, int]]:
    """(place, tag) of what is learned."""
    (sequence,) = example.sequences
    assert sequence.targets is not None
    return [(at, sequence.targets[at]) for at, weight in enumerate(sequence.weights) if weight]


def test_a_word_is_learned_at_its_first_token(encode: Any) -> None:
    tagged = Tagged(("Jane", "unhappy", "?"), ("B", "I", "O"))
    (example,) = encode(tagged, tokenizer=BERT, labels=("B", "I", "O"))
    assert ids(example) == [[2, 7, 4, 5, 6, 12, 3]]  # [CLS] jane un ##happ ##y ? [SEP]
    assert learned(example) == [(1, 0), (2, 1), (5, 2)]
    (decoder,) = encode(Tagged(("ab", "c"), ("I", "O")), model="decoder", labels=("B", "I", "O"))
    assert ids(decoder) == [[END, *b"ab c", END]]
    assert learned(decoder) == [(1, 1), (4, 2)]


def test_tags_of_many_scripts(encode: Any) -> None:
    """A character of three bytes is three tokens here; a word that leaves no token (a control sign) is not learned."""
    (example,) = encode(Tagged(("春", "é"), ("A", "B")), labels=("A", "B"))
    assert learned(example) == [(1, 0), (5, 1)]
    (example,) = encode(Tagged(("jane", "\u200b", "emma"), ("A", "B", "A")), tokenizer=BERT, labels=("A", "B"))
    assert learned(example) == [(1, 0), (2, 0)]


def test_long_sentences_are_cut_between_words(encode: Any) -> None:
    words = ("aa", "bbb", "c", "dd")  # aa bbb c dd: 11 bytes
    windows = encode(Tagged(words, ("A", "B", "A", "B")), window=8, labels=("A", "B"))
    assert [ids(window)[0] for window in windows] == [[CLS, *b"aa ", SEP], [CLS, *b"bbb c ", SEP], [CLS, *b"dd", SEP]]
    assert [learned(window) for window in windows] == [[(1, 0)], [(1, 1), (5, 0)], [(1, 1)]]
    assert tag_windows(7, [0], 3) == [(0, 3), (3, 6), (6, 7)]  # a word that is longer than a row


def answers(examples: list[TokenExample]) -> list[bytes | None]:
    """The bytes that the labels point at; None for the first place."""
    found: list[bytes | None] = []
    for example in examples:
        start, end = map(int, example.labels)
        (sequence,) = example.sequences
        assert sequence.weights[start] == sequence.weights[end] == 1.0
        found.append(None if start == 0 else bytes(sequence.ids[start : end + 1]))
    return found


def test_an_answer_is_a_place_in_the_text_behind_the_question(encode: Any) -> None:
    question = Question("Who wrote it?", "Jane wrote Emma", "Jane", 0)
    (example,) = encode(question, tokenizer=BERT)
    assert ids(example) == [[2, 10, 8, 11, 12, 3, 7, 8, 9, 3]]
    assert example.labels == (6.0, 6.0)
    assert example.sequences[0].weights == [1, 0, 0, 0, 0, 0, 1, 1, 1, 0]
    (whole,) = encode(Question("q", "Jane wrote Emma", "wrote Emma", 5), tokenizer=BERT)
    assert whole.labels == (4.0, 5.0)
    (nowhere,) = encode(Question("q", "Jane wrote Emma", "", -1))
    assert nowhere.labels == (0.0, 0.0)
    (decoder,) = encode(Question("q", "ab cd", "cd", 3), model="decoder")
    assert ids(decoder) == [[END, *b"q", END, *b"ab cd", END]]
    assert answers([decoder]) == [b"cd"]


def test_windows_overlap_and_each_says_whether_the_answer_is_whole_in_it(encode: Any) -> None:
    """Of 13 tokens, 4 are taken by the frame and the question: 9 of the text a window, 3 of them twice."""
    text = "abcdefghijklmnopqrstu"
    windows = encode(Question("?", text, "hij", 7), window=13)
    assert [bytes(ids(w)[0][3:-1]).decode() for w in windows] == ["abcdefghi", "ghijklmno", "mnopqrstu"]
    assert answers(windows) == [None, b"hij", None]
    assert answers(encode(Question("?", text, "u", 20), window=13)) == [None, None, b"u"]


@given(st.integers(0, 200), st.integers(1, 40))
def test_no_token_is_lost_between_windows(size: int, most: int) -> None:
    cuts = overlapping(size, most)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == size
    assert all(end - begin <= most for begin, end in cuts)
    assert all(begin < after <= end for (begin, end), (after, _) in pairwise(cuts))
    assert all(end < size for _, end in cuts[:-1])


def test_a_long_question_leaves_half_of_the_row_to_the_text(encode: Any, renderer: Renderer) -> None:
    encoder = Encoder(BYTES, renderer, Encoding(kind="plain", model="encoder", window=23))
    ((first, *_),) = question_windows(["q" * 50], ["x" * 30], encoder)
    assert first.sequence.ids == [CLS, *b"q" * 10, SEP, *b"x" * 10, SEP]
    assert first.spans[0] == (0, 1)


@given(st.text(max_size=30))
def test_spans_are_where_the_tokens_come_from(text: str) -> None:
    ((found, spans),) = encode_spans(BYTES, [text])
    assert found == list(text.encode())
    owners = [at for at, character in enumerate(text) for _ in character.encode("utf-8")]
    assert all((b, e) == (at, at + 1) for (b, e), at in zip(spans, owners, strict=True) if not text[at].isspace())
    assert all(b == e for (b, e), at in zip(spans, owners, strict=True) if text[at].isspace())
