"""Documents to be filled in: cut into pieces that fit a row, and of some of these the middle put behind the rest.

The cuts stand between characters, so that the model also learns to go on inside a word; prefix, middle and suffix are
tokenized each by itself. Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 4.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.data.draws import generator_for, uniforms
from core.data.encodings.encoder import Encoder
from core.data.examples import TokenExample
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData

MARGIN = 8
"""tokens of a row that are left for the marks, and for words that a cut makes longer"""


@dataclass(frozen=True)
class Window:
    """A part of a document. `whole`: (does the document begin here, does it end here)."""

    text: str
    ids: list[int]
    whole: tuple[bool, bool]


@dataclass(frozen=True)
class Cut:
    """Which window is rearranged, and how."""

    window: int
    parts: tuple[str, str, str]
    suffix_first: bool


def encode(texts: Sequence[str], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the tokenizer has no tokens for it.
    """
    tokenizer, settings = encoder.tokenizer, encoder.encoding.settings
    marks = tokenizer.infilling
    if marks is None:
        raise InvalidData(
            "the tokenizer has no tokens that stand before prefix, suffix and middle",
            code="no_infilling_tokens",
            param="model.tokenizer",
            hint="train a tokenizer here, all of them have such tokens, or start from a model for code",
        )
    documents = [_windows(ids, encoder.row, tokenizer) for ids in tokenizer.encode_batch(texts)]
    flat = [window for windows in documents for window in windows]
    rate, suffix_first = float(settings["rate"]), float(settings["suffix_first"])
    cuts = [cut for i, window in enumerate(flat) if (cut := _cut(i, window, encoder, rate, suffix_first)) is not None]
    rearranged = _rearranged(cuts, flat, marks, tokenizer, encoder.row)
    encoded = (rearranged.get(i) or _plain(window, tokenizer) for i, window in enumerate(flat))
    made = (TokenExample.of(ids, [1.0] * len(ids)) for ids in encoded)
    return [[next(made) for _ in windows] for windows in documents]


def _windows(ids: list[int], row: int, tokenizer: Tokenizer) -> list[Window]:
    """Pieces of whole characters."""
    found, begin = [], 0
    while begin < len(ids):
        end = min(begin + max(row - MARGIN, 1), len(ids))
        while begin + 1 < end < len(ids) and _goes_on(ids[end], tokenizer):
            end -= 1
        part = ids[begin:end]
        found.append(Window(tokenizer.decode(part), part, (begin == 0, end == len(ids))))
        begin = end
    return found


def _goes_on(id: int, tokenizer: Tokenizer) -> bool:
    """The token begins inside a character."""
    return b"\x80" <= tokenizer.token_bytes(id)[:1] < b"\xc0"


def _cut(number: int, window: Window, encoder: Encoder, rate: float, suffix_first: float) -> Cut | None:
    random = generator_for(encoder.encoding.seed or 0, np.asarray(window.ids, np.int64).tobytes())
    coin, order, *places = uniforms(random, 4).tolist()
    if coin >= rate:
        return None
    a, b = sorted(int(place * (len(window.text) + 1)) for place in places)
    parts = window.text[:a], window.text[a:b], window.text[b:]
    return Cut(number, parts, order < suffix_first)


def _rearranged(
    cuts: Sequence[Cut], windows: Sequence[Window], marks: tuple[int, int, int], tokenizer: Tokenizer, row: int
) -> dict[int, list[int]]:
    """Ids by number of the window; none of what has become too long for a row."""
    prefix, suffix, middle = marks
    first = iter(tokenizer.encode_batch([cut.parts[0] for cut in cuts]))
    later = iter(tokenizer.encode_batch([part for cut in cuts for part in cut.parts[1:]], continues=True))
    start = [tokenizer.start_of_text] * tokenizer.prepends_start
    found = {}
    for cut in cuts:
        a, b, c = next(first), next(later), next(later)
        rest = [suffix, *c, middle, *a] if cut.suffix_first else [*a, suffix, *c, middle]
        ids = [*start, prefix, *rest, *b, tokenizer.end_of_text]
        if len(ids) <= row + 1:
            found[cut.window] = ids
    return found


def _plain(window: Window, tokenizer: Tokenizer) -> list[int]:
    begins, ends = window.whole
    return [*[tokenizer.start_of_text] * begins, *window.ids, *[tokenizer.end_of_text] * ends]
