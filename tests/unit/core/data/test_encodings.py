"""What objectives make of documents and pairs of texts, against tokens written by hand."""

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from core.data.draws import chosen, generator_for, integers, uniforms
from core.data.encodings import encode_examples, next_sentence
from core.data.encodings.encoder import Encoder, Encoding
from core.data.encodings.span_corruption import corrupted, division, noise, window_size
from core.data.examples import Document, Example, PromptCompletion, TextPair, TokenExample
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData

BYTES = Tokenizer.bytes()
END, PAD = BYTES.end_of_text, BYTES.pad
CLASS, SEPARATOR = BYTES.class_token, BYTES.separator


def encode(
    examples: list[Example], kind: str, *, row: int | None = 16, model: str = "decoder", seed: int = 0,
    tokenizer: Tokenizer = BYTES, **settings: Any,
) -> list[list[TokenExample]]:  # fmt: skip
    encoding = Encoding(kind=kind, model=model, window=row, seed=seed, settings=settings)
    with Renderer() as renderer:
        return encode_examples(examples, Encoder(tokenizer, renderer, encoding))


def documents(*texts: str) -> list[Example]:
    return [Document(text) for text in texts]


def ids_of(examples: list[TokenExample]) -> list[list[int]]:
    return [example.sequences[0].ids for example in examples]


@pytest.fixture
def bare() -> Tokenizer:
    """Letters and an end."""
    hf = tokenizers.Tokenizer(models.WordLevel({"a": 0, "text": 1, "<eos>": 2}, unk_token="a"))
    hf.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.add_special_tokens(["<eos>"])
    return Tokenizer(hf.to_str(), {"eos_token": "<eos>"}, None)


def test_draws_are_pinned_even_and_within_bounds() -> None:
    """A resumed run must draw the same under any later numpy."""
    random = generator_for(3, b"text", stream=1)
    assert integers(random, 8, 100).tolist() == [38, 97, 42, 38, 50, 84, 5, 68]
    random = generator_for(0, b"")
    drawn = uniforms(random, 40_000)
    assert 0.0 <= drawn.min() < 0.001 < 0.999 < drawn.max() < 1.0
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    for count, among in ((0, 3), (3, 3), (2, 9)):
        found = chosen(random, count, among).tolist()
        assert found == sorted(set(found))
        assert len(found) == count
        assert set(found) <= set(range(among))


def test_a_masked_text_is_cut_into_framed_windows() -> None:
    [[first, second, third], [fourth]] = encode(
        documents("abcdefghij", "k"), "masked", row=6, model="encoder", next_sentence="none"
    )
    assert ids_of([first, second, third, fourth]) == [
        [CLASS, *b"abcd", SEPARATOR],
        [CLASS, *b"efgh", SEPARATOR],
        [CLASS, *b"ij", SEPARATOR],
        [CLASS, *b"k", SEPARATOR],
    ]
    assert first.sequences[0].weights == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert first.sequences[0].targets is None


def test_sentences_end_with_a_full_stop_or_a_line() -> None:
    found = next_sentence.sentences('One. "Two!" 3.5 is one.\nFour\n\nfive 春眠不觉晓。处处闻啼鸟。')
    assert found == ["One.", ' "Two!"', " 3.5 is one.\n", "Four\n\n", "five 春眠不觉晓。", "处处闻啼鸟。"]


LINES = [f"{chr(97 + i % 26) * (2 + i % 5)}{i:03}.\n" for i in range(400)]
CHAPTERS = ["".join(LINES[begin : begin + 100]) for begin in range(0, 400, 100)]


def pairs(found: list[TokenExample]) -> list[tuple[str, str, bool]]:
    texts = []
    for example in found:
        ids = example.sequences[0].ids
        cut = ids.index(SEPARATOR)
        assert (ids[0], ids[-1]) == (CLASS, SEPARATOR)
        assert len(ids) <= 64
        assert [w for id, w in zip(ids, example.sequences[0].weights, strict=True) if id > 255] == [0.0] * 3
        texts.append((BYTES.decode(ids[1:cut]), BYTES.decode(ids[cut + 1 : -1]), example.labels == (1.0, 0.0)))
    return texts


def test_a_second_text_follows_or_comes_from_another_document() -> None:
    encoded = encode(documents(*CHAPTERS), "masked", row=64, model="encoder", next_sentence="binary")
    follows = []
    for chapter, found in zip(CHAPTERS, encoded, strict=True):
        for first, second, true in pairs(found):
            assert first in chapter
            assert (first + second in chapter) == true
            assert true or second not in chapter or len(second) < 8  # which may be found anywhere
            follows.append(true)
        shown = "".join(first + second * true for first, second, true in pairs(found))
        assert all(line in shown for line in chapter.splitlines()[:-1]), "what was exchanged is taken again"
    assert len(follows) > 80
    assert np.mean(follows) == pytest.approx(0.5, abs=0.15)
    again = encode(documents(*CHAPTERS), "masked", row=64, model="encoder", next_sentence="binary")
    other = encode(documents(*CHAPTERS), "masked", row=64, model="encoder", seed=1, next_sentence="binary")
    assert encoded == again != other


def test_a_document_without_sentences_or_company_still_gives_pairs() -> None:
    [found] = encode(documents("x" * 150), "masked", row=64, model="encoder", next_sentence="binary")
    assert sum(len(first) + len(second) * true for first, second, true in pairs(found)) >= 149
    assert encode(documents("x"), "masked", row=64, model="encoder", next_sentence="binary") == [[]]


def test_spans_by_hand() -> None:
    x, y = BYTES.sentinels[:2]
    example = corrupted(list(b"abcdefg"), np.array([2, 1]), np.array([1, 3]), BYTES)
    source, target = example.sequences
    assert source.ids == [*b"ab", x, *b"d", y, END]
    assert target.ids == [PAD, x, *b"c", y, *b"efg", END]
    assert source.weights == [0.0] * 6
    assert target.weights == [0.0] + [1.0] * 7


def test_how_much_is_cut_out() -> None:
    """T5's own figures: rows of 512 are made from 568 tokens, and the targets have 114."""
    usual = {"density": 0.15, "mean_length": 3.0}
    assert window_size(512, 100, **usual) == 568
    assert noise(568, **usual) == (85, 28)
    assert 85 + 28 + 1 == 114
    assert noise(2, **usual) == (1, 1)
    assert noise(10, density=0.9, mean_length=1.0) == (9, 1)
    assert noise(window_size(512, 10, **usual), **usual)[1] == 10  # no more holes than sentinels
    for row in (8, 9, 64):
        num_noise, num_spans = noise(size := window_size(row, 61, **usual), **usual)
        assert size - num_noise + num_spans + 1 <= row


def test_every_division_is_as_likely() -> None:
    random = generator_for(0, b"divisions")
    counts = Counter(tuple(division(random, 5, 3).tolist()) for _ in range(3000))
    assert all(sum(parts) == 5 and min(parts) > 0 for parts in counts)
    assert len(counts) == 6
    assert max(counts.values()) < 600 > 400 < min(counts.values())
    assert division(random, 4, 4).tolist() == [1, 1, 1, 1]


def test_a_text_with_holes_can_be_put_together_again() -> None:
    text = "".join(LINES)
    [found] = encode(documents(text), "span_corruption", row=64, model="encoder_decoder", density=0.15, mean_length=3.0)
    whole = []
    for example in found:
        source, target = (sequence.ids for sequence in example.sequences)
        assert len(source) <= 64
        assert len(target) - 1 <= 64
        holes: dict[int, list[int]] = {}
        for id in target[1:-1]:
            if id in BYTES.sentinels:
                latest = holes[id] = []
            else:
                latest.append(id)
        whole.append(bytes(chain.from_iterable(holes.get(id, [id]) for id in source[:-1])).decode())
        assert list(holes) == list(BYTES.sentinels[: len(holes)])
    assert "".join(whole) == text
    settings = {"row": 64, "model": "encoder_decoder", "density": 0.15, "mean_length": 3.0}
    assert encode(documents("Other.", text), "span_corruption", **settings)[1] == found  # where it stands is nothing
    assert encode(documents(text), "span_corruption", seed=1, **settings) != [found]


def restored(ids: list[int], tokenizer: Tokenizer) -> tuple[str, str]:
    """(how it was arranged, the text in its order)."""
    assert tokenizer.infilling is not None
    prefix, suffix, middle = tokenizer.infilling
    if prefix not in ids:
        return "plain", tokenizer.decode(ids)
    assert ids[0] == prefix
    assert ids[-1] == tokenizer.end_of_text
    at, behind = ids.index(suffix), ids.index(middle)
    if at == 1:
        return "suffix first", tokenizer.decode(ids[behind + 1 :]) + tokenizer.decode(ids[at:behind])
    parts = ids[1:at], ids[behind + 1 :], ids[at + 1 : behind]
    return "prefix first", "".join(tokenizer.decode(part) for part in parts)


@pytest.mark.parametrize("name", ["bytes", "trained"])
def test_a_text_to_fill_in_can_be_put_in_order_again(name: str, trained: Tokenizer) -> None:
    tokenizer = BYTES if name == "bytes" else trained
    text = "".join(LINES) + "春眠不觉晓处处闻啼鸟。夜来风雨声花落知多少。" * 20
    settings = {"row": 64, "rate": 0.5, "suffix_first": 0.5, "tokenizer": tokenizer}
    [found] = encode(documents(text), "fill_in_the_middle", **settings)
    arranged = [restored(ids, tokenizer) for ids in ids_of(found)]
    assert "".join(text for _, text in arranged) == text
    assert all(len(ids) <= 65 for ids in ids_of(found))
    counts = Counter(how for how, _ in arranged)
    assert counts["plain"] / len(arranged) == pytest.approx(0.5, abs=0.17)
    assert counts["prefix first"] / (counts.total() - counts["plain"]) == pytest.approx(0.5, abs=0.25)
    assert ids_of(found)[-1][-1] == tokenizer.end_of_text
    assert encode(documents("Other.", text), "fill_in_the_middle", **settings)[1] == found


@pytest.mark.parametrize(
    ("rate", "suffix_first", "how"), [(0.0, 0.5, "plain"), (1.0, 0.0, "prefix first"), (1.0, 1.0, "suffix first")]
)
def test_how_texts_are_rearranged(rate: float, suffix_first: float, how: str) -> None:
    [found] = encode(documents("".join(LINES)), "fill_in_the_middle", row=64, rate=rate, suffix_first=suffix_first)
    counts = Counter(restored(ids, BYTES)[0] for ids in ids_of(found))
    assert counts[how] >= 0.9 * counts.total()  # both orders write an empty prefix alike
    if how == "plain":
        assert ids_of(found)[0][0] == END  # the start of the text; windows in the middle have none
        assert END not in ids_of(found)[1]


def test_pairs_of_texts_lie_in_two_lanes() -> None:
    for example in (TextPair("ab", "xyz"), PromptCompletion("ab", "xyz")):
        [[found]] = encode([example], "plain", row=None, model="encoder_decoder")
        source, target = found.sequences
        assert (source.ids, source.weights) == ([*b"ab", END], [0.0] * 3)
        assert (target.ids, target.weights) == ([PAD, *b"xyz", END], [0.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("kind", "model", "settings", "code"),
    [
        ("masked", "encoder", {"next_sentence": "none"}, "no_mask_token"),
        ("masked", "encoder", {"next_sentence": "binary"}, "no_mask_token"),
        ("span_corruption", "encoder_decoder", {"density": 0.15, "mean_length": 3.0}, "no_sentinels"),
        ("fill_in_the_middle", "decoder", {"rate": 0.5, "suffix_first": 0.5}, "no_infilling_tokens"),
    ],
)
def test_a_tokenizer_without_the_needed_tokens(
    bare: Tokenizer, kind: str, model: str, settings: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidData, match="the tokenizer has no") as refused:
        encode(documents("a text"), kind, model=model, tokenizer=bare, **settings)
    assert refused.value.code == code
    assert refused.value.hint
