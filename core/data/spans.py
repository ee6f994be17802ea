"""Where the tokens of a text stand in it."""

from collections.abc import Sequence

from core.data.tokenizer import Tokenizer

Spans = list[tuple[int, int]]
"""first character, and the one behind the last; white space at the ends is left out"""


def encode_spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
    """Ids and their places, of each text. Several tokens may share a character; one of white space alone is empty."""
    encoded = tokenizer.encode_with_offsets(texts)
    return [
        (encoding.ids, [_trimmed(text, *offsets) for offsets in encoding.offsets])
        for text, encoding in zip(texts, encoded, strict=True)
    ]


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    while begin < end and text[begin].isspace():
        begin += 1
    while begin < end and text[end - 1].isspace():
        end -= 1
    return begin, end
