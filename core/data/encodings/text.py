"""Documents: start, text, end of text, all of it learned; or what an objective makes of them in a file of its own."""

from collections.abc import Sequence

from core.data.encodings import fill_in_the_middle, masked, next_sentence, span_corruption
from core.data.encodings.encoder import Encoder
from core.data.examples import Document, TokenExample


def encode(examples: Sequence[Document], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the tokenizer lacks a special token that the objective needs.
    """
    texts = [example.text for example in examples]
    match encoder.encoding.kind:
        case "masked" if encoder.encoding.settings["next_sentence"] == "binary":
            return next_sentence.encode(texts, encoder)
        case "masked":
            return masked.encode(texts, encoder)
        case "span_corruption":
            return span_corruption.encode(texts, encoder)
        case "fill_in_the_middle":
            return fill_in_the_middle.encode(texts, encoder)
        case _:
            return plain(texts, encoder)


def plain(texts: Sequence[str], encoder: Encoder) -> list[list[TokenExample]]:
    """One sequence a document."""
    start, end = encoder.tokenizer.start_of_text, encoder.tokenizer.end_of_text
    encoded = [[start, *ids, end] for ids in encoder.tokenizer.encode_batch(texts)]
    return [[TokenExample.of(ids, [1.0] * len(ids))] for ids in encoded]
