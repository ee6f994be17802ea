"""Pairs of texts for an encoder-decoder, in two lanes: source and end; pad, target and end, of which all behind the pad
is learned. Both begin and end as T5's and Marian's do (Raffel et al. 2019, arXiv:1910.10683)."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.examples import TextPair, TokenExample, TokenSequence
from core.data.tokenizer import Tokenizer


def encode(examples: Sequence[TextPair], encoder: Encoder) -> list[list[TokenExample]]:
    return pairs([e.source for e in examples], [e.target for e in examples], encoder.tokenizer)


def pairs(sources: Sequence[str], targets: Sequence[str], tokenizer: Tokenizer) -> list[list[TokenExample]]:
    encoded = zip(tokenizer.encode_batch(sources), tokenizer.encode_batch(targets), strict=True)
    return [[lanes(source, target, tokenizer)] for source, target in encoded]


def lanes(source: list[int], target: list[int], tokenizer: Tokenizer) -> TokenExample:
    read, written = [*source, tokenizer.end_of_text], [*target, tokenizer.end_of_text]
    return TokenExample(
        (
            TokenSequence(read, [0.0] * len(read)),
            TokenSequence([tokenizer.pad, *written], [0.0] + [1.0] * len(written)),
        )
    )
