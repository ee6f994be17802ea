"""One text or two as an encoder or a decoder reads them whole, to say something of them.

encoder   framed by class token and separators, as the tokenizer's authors do
decoder   start, text, end of text (, second text, end of text): the last token has seen all
"""

from core.data.encodings.encoder import Encoder
from core.data.encodings.framing import frame_size, framed
from core.data.examples import TokenSequence

Ids = list[int]


def read_as(encoder: Encoder, first: Ids, second: Ids | None = None) -> TokenSequence:
    """The texts have weight 1, what stands around them 0."""
    tokenizer = encoder.tokenizer
    if encoder.encoding.model == "encoder":
        return framed(tokenizer, first, second)
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    ids, weights = [start, *first, end], [0.0, *[1.0] * len(first), 0.0]
    if second is not None:
        ids, weights = [*ids, *second, end], [*weights, *[1.0] * len(second), 0.0]
    return TokenSequence(ids, weights)


def room(encoder: Encoder, *, texts: int = 1) -> int | None:
    """How many ids of texts fit into a row; None: any number."""
    if encoder.encoding.window is None:
        return None
    if encoder.encoding.model == "encoder":
        return encoder.encoding.window - frame_size(encoder.tokenizer, texts=texts)
    return encoder.encoding.window - 1 - texts


def fitted(encoder: Encoder, first: Ids, second: Ids | None = None) -> tuple[Ids, Ids | None, bool]:
    """The texts without the ends that do not fit into a row, the longer one cut first; whether something was cut."""
    most = room(encoder, texts=1 if second is None else 2)
    if most is None or len(first) + len(second or []) <= most:
        return first, second, False
    if second is None:
        return first[:most], None, True
    half = most // 2
    kept = min(len(first), max(half, most - len(second)))
    return first[:kept], second[: most - kept], True


def texts_read(encoder: Encoder, texts: list[str], pairs: list[str | None]) -> list[tuple[TokenSequence, bool]]:
    """Of each text (with its pair), what a row holds of it, and whether something was cut."""
    tokenizer = encoder.tokenizer
    firsts = tokenizer.encode_batch(texts)
    there = [pair for pair in pairs if pair is not None]
    seconds = iter(tokenizer.encode_batch(there) if there else [])
    read = []
    for first, pair in zip(firsts, pairs, strict=True):
        first, second, is_cut = fitted(encoder, first, None if pair is None else next(seconds))
        read.append((read_as(encoder, first, second), is_cut))
    return read
