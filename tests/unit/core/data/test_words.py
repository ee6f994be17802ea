"""Looking words up must give the very ids that the library gives."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.data import words
from core.data.tokenizer import Tokenizer
from core.data.words import WordCache, word_splitter, words_of

SPLITTER = word_splitter()
HARD = st.sampled_from([*"'sStTrReElLdDmMvV 019\r\n\t\x0b\x0c\x1c\x1f\x00._-", "\u017f", "é", "春", "٣", "Ⅷ", "²"])
SPACES = st.sampled_from([*"\x85\xa0\u1680\u2003\u2028\u3000\u200b\ufeff\u180e"])
text = st.lists(HARD | SPACES | st.characters(exclude_categories=["Cs"]), max_size=25).map("".join)


def library(text: str) -> list[str]:
    return [text[a:b] for _, (a, b) in SPLITTER.pre_tokenize_str(text)]


@given(text)
@example("'\u017f it'\u017f I'LL don't  'reed")
@example("a\u0301 नमस्ते ไทย 1\uff12\uff13 ½")
def test_the_same_pieces(text: str) -> None:
    assert words_of(text) == library(text)


def test_every_character_is_in_the_class_that_the_library_puts_it_in() -> None:
    """Between a letter and a digit, what a character is shows in where the cuts are."""
    characters = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    characters += [chr(code) for code in range(0x3100, 0x110000, 197) if not 0xD800 <= code < 0xE000]
    wrong = [hex(ord(c)) for c in characters for t in (f"a{c}a", f"'{c}", f" {c}{c}\n") if words_of(t) != library(t)]
    assert wrong == []


@given(st.lists(text, max_size=4))
def test_the_same_ids(trained: Tokenizer, texts: list[str]) -> None:
    cache = WordCache(trained._encode_by_library)
    expected = trained._encode_by_library(texts)
    assert cache.encode_batch(texts) == expected
    assert cache.encode_batch(texts) == expected, "and again, when the words are known"


def test_a_large_batch_goes_through_the_cache(trained: Tokenizer) -> None:
    texts = ["the dog don't\n  jump 123 — naïve " * 3000, "春眠不觉晓" * 10, ""]
    assert trained.encode_batch(texts) == trained._encode_by_library(texts)
    assert trained._words is not None
    assert trained._words._ids["the"] == tuple(trained.encode("the"))


def test_the_cache_is_bounded(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 50)
    cache = WordCache(trained._encode_by_library)
    for i in range(20):
        texts = [" ".join(f"w{chr(97 + j % 26)}{chr(97 + i)}" for j in range(30)), "x" * 40]
        assert cache.encode_batch(texts) == trained._encode_by_library(texts)
        assert len(cache._ids) <= 50
        assert "x" * 40 not in cache._ids


def test_other_tokenizers_do_not_use_it() -> None:
    assert Tokenizer.bytes()._words is None
