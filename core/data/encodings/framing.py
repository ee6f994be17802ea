"""Texts as an encoder reads them: framed by class token and separators, long ones in windows."""

from itertools import chain

from core.data.examples import TokenSequence
from core.data.tokenizer import Tokenizer


def framed(tokenizer: Tokenizer, first: list[int], second: list[int] | None = None) -> TokenSequence:
    """One text or two, as the tokenizer's authors frame them. The frame has no weight, the texts have."""
    before, between, behind = tokenizer.frame
    if second is None:
        parts = [(before, 0.0), (first, 1.0), (behind, 0.0)]
    else:
        parts = [(before, 0.0), (first, 1.0), (between, 0.0), (second, 1.0), (behind, 0.0)]
    ids = list(chain.from_iterable(ids for ids, _ in parts))
    return TokenSequence(ids, [weight for ids, weight in parts for _ in ids])


def frame_size(tokenizer: Tokenizer, *, texts: int = 1) -> int:
    """How many ids the frame of one text or of two adds."""
    before, between, behind = tokenizer.frame
    return len(before) + len(between) * (texts - 1) + len(behind)


def windows(ids: list[int], size: int) -> list[list[int]]:
    """The text in pieces of `size`; the last one is what is left."""
    return [ids[begin : begin + size] for begin in range(0, len(ids), size)]
