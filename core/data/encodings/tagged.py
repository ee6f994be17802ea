"""Words with tags: a word is learned at its first token. A text that is too long becomes several, cut between words."""

from collections.abc import Sequence
from itertools import pairwise

from core.data.encodings.encoder import Encoder
from core.data.encodings.labelled import check_known
from core.data.encodings.reading import Ids, read_as, room
from core.data.examples import Tagged, TokenExample, TokenSequence
from core.data.spans import encode_spans


def encode(examples: Sequence[Tagged], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: a tag that the model does not have.
    """
    numbers = {name: number for number, name in enumerate(encoder.encoding.labels)}
    encoded = []
    for example, (ids, firsts) in zip(examples, read_words([e.words for e in examples], encoder), strict=True):
        check_known(example.tags, encoder.encoding.labels)
        tag_at = {at: numbers[tag] for at, tag in zip(firsts, example.tags, strict=True) if at is not None}
        encoded.append(
            [_tagged(encoder, ids[begin:end], begin, tag_at) for begin, end in windows(len(ids), firsts, room(encoder))]
        )
    return encoded


def read_words(sentences: Sequence[Sequence[str]], encoder: Encoder) -> list[tuple[Ids, list[int | None]]]:
    """Of each sentence its ids, with single spaces between the words, and at which id each word begins; None for a
    word that has no token of its own."""
    read = []
    texts = [" ".join(words) for words in sentences]
    for words, (ids, spans) in zip(sentences, encode_spans(encoder.tokenizer, texts), strict=True):
        firsts: list[int | None] = []
        at = begin = 0
        for word in words:
            end = begin + len(word)
            while at < len(ids) and spans[at][1] <= begin:
                at += 1
            is_there = at < len(ids) and spans[at][0] < end and spans[at][0] < spans[at][1]
            firsts.append(at if is_there else None)
            at += is_there
            begin = end + 1
        read.append((ids, firsts))
    return read


def windows(size: int, firsts: Sequence[int | None], most: int | None) -> list[tuple[int, int]]:
    """Where to cut `size` ids so that each piece has at most `most`: before a word, where one fits."""
    if most is None or size <= most:
        return [(0, size)]
    starts = [at for at in firsts if at is not None]
    cuts = [0]
    while size - cuts[-1] > most:
        fitting = [at for at in starts if cuts[-1] < at <= cuts[-1] + most]
        cuts.append(fitting[-1] if fitting else cuts[-1] + most)
    return list(pairwise([*cuts, size]))


def _tagged(encoder: Encoder, ids: Ids, begin: int, tag_at: dict[int, int]) -> TokenExample:
    framed = read_as(encoder, ids)
    before = len(framed.ids) - 1 - len(ids)
    weights, targets = [0.0] * len(framed.ids), [0] * len(framed.ids)
    for at in range(begin, begin + len(ids)):
        if at in tag_at:
            weights[before + at - begin], targets[before + at - begin] = 1.0, tag_at[at]
    return TokenExample((TokenSequence(framed.ids, weights, targets),))
