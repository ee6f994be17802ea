"""Texts with a value."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.encodings.reading import texts_read
from core.data.examples import Scored, TokenExample


def encode(examples: Sequence[Scored], encoder: Encoder) -> list[list[TokenExample]]:
    read = texts_read(encoder, [e.text for e in examples], [e.pair for e in examples])
    return [
        [TokenExample((sequence,), (example.value,), is_cut=is_cut)]
        for example, (sequence, is_cut) in zip(examples, read, strict=True)
    ]
