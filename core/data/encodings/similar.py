"""Texts that belong together: a lane each for anchor, positive and, where they are learned from, hard negative."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.encodings.reading import texts_read
from core.data.examples import Similar, TokenExample
from core.errors import InvalidData


def encode(examples: Sequence[Similar], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: hard negatives are wanted, and one is missing.
    """
    columns = [[e.anchor for e in examples], [e.positive for e in examples]]
    if encoder.encoding.settings["negatives"] == "hard":
        columns.append([_negative(e) for e in examples])
    alone: list[str | None] = [None] * len(examples)
    lanes = [texts_read(encoder, column, alone) for column in columns]
    return [
        [TokenExample(tuple(sequence for sequence, _ in read), is_cut=any(is_cut for _, is_cut in read))]
        for read in zip(*lanes, strict=True)
    ]


def _negative(example: Similar) -> str:
    if example.negative is None:
        raise InvalidData(
            "the row has no negative, but the objective learns from hard ones",
            code="no_negative",
            param="objective.negatives",
            hint='set objective.negatives to "in_batch", or give every row a negative',
        )
    return example.negative
