"""`WordCache`: byte-level BPE by looking words up. Text is mostly words that came before, and a word's tokens depend on
nothing but the word, so a dictionary gives the same ids as the library three times as fast.

Words are found by Python's `re`, which knows no Unicode categories: characters outside ASCII are first exchanged, one
for one, for an ASCII character of the class that the library's own regular expressions put them in.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise

import tokenizers
from tokenizers import pre_tokenizers

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen 2's, which other engines know: words with the space before them, digits one by one, runs of white space"""

SPACE = r"\t\n\x0b\x0c\r "
WORD = re.compile(
    r"'(?:[sStTmMdD]|[rRvV][eE]|[lL][lL])"
    r"|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]"
    rf"| ?[^{SPACE}A-Za-z0-9]+[\r\n]*"
    rf"|[{SPACE}]*[\r\n]+|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
)
"""`SPLIT` for ASCII"""
MAX_WORDS = 1 << 18
MAX_WORD_CHARACTERS = 32
MAX_BYTES_PER_CHARACTER = 1.2
"""beyond it the text is not written in words with spaces, and few would be found again"""

LONG_S = 0x17F
"""the one character outside ASCII that `(?i:'s)` takes for one of its letters"""

Encode = Callable[[Sequence[str]], list[list[int]]]


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of tokenizers that are made here."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def splits_into_words(hf: tokenizers.Tokenizer) -> bool:
    ours = tokenizers.Tokenizer(tokenizers.models.BPE())
    ours.pre_tokenizer = word_splitter()
    one, other = json.loads(ours.to_str()), json.loads(hf.to_str())
    return all(one[part] == other[part] for part in ("normalizer", "pre_tokenizer"))


class WordCache:
    """`encode` is the library's, for words that are new and texts that have no words."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._ids: dict[str, tuple[int, ...]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        words = [words_of(text) if suits(text) else [text] for text in texts]
        known = self._ids
        new = list({word for found in words for word in found if word not in known})
        fresh = dict(zip(new, map(tuple, self._encode(new)), strict=True))
        if len(known) + len(fresh) > MAX_WORDS:
            known = {}
        short = {word: ids for word, ids in fresh.items() if len(word) <= MAX_WORD_CHARACTERS}
        ids_of = (self._ids | fresh).__getitem__ if fresh else self._ids.__getitem__
        encoded = [list(chain.from_iterable(map(ids_of, found))) for found in words]
        self._ids = known | short
        return encoded


def suits(text: str) -> bool:
    return text.isascii() or len(text.encode()) <= MAX_BYTES_PER_CHARACTER * len(text)


def words_of(text: str) -> list[str]:
    """The pieces that `SPLIT` cuts the text into."""
    if text.isascii():
        return WORD.findall(text)
    sizes = map(len, WORD.findall(text.translate(_ASCII)))
    return [text[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]


class _Classes(dict[int, int]):
    """An ASCII character of the same class for every other one; asked of the library once for each character."""

    def __init__(self) -> None:
        super().__init__({code: code for code in range(128)})
        self[LONG_S] = ord("s")
        classes = ((r"\p{L}", "a"), (r"\p{N}", "0"), (r"\s", "\x0b"))
        self._classes = [
            (pre_tokenizers.Split(tokenizers.Regex(regex), behavior="removed"), ord(stands_for))
            for regex, stands_for in classes
        ]

    def __missing__(self, code: int) -> int:
        character = chr(code)
        stands_for = next(
            (ascii for splits, ascii in self._classes if not splits.pre_tokenize_str(character)), ord("!")
        )
        self[code] = stands_for
        return stands_for


_ASCII = _Classes()
