"""Judged answers: one lane, of which the answer is learned; the label is 1 where people found it good, else 0."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.encodings.preference import answers
from core.data.examples import Judged, TokenExample


def encode(examples: Sequence[Judged], encoder: Encoder) -> list[list[TokenExample]]:
    sequences = answers([example.example for example in examples], encoder)
    return [
        [TokenExample((sequence,), labels=(float(example.is_good),))]
        for sequence, example in zip(sequences, examples, strict=True)
    ]
