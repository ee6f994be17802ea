"""Documents: start, text, end of text; everything is learned."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.examples import Document, TokenExample


def encode(examples: Sequence[Document], encoder: Encoder) -> list[list[TokenExample]]:
    """One sequence a document."""
    tokenizer = encoder.tokenizer
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    encoded = [[start, *ids, end] for ids in tokenizer.encode_batch([example.text for example in examples])]
    return [[TokenExample.of(ids, [1.0] * len(ids))] for ids in encoded]
