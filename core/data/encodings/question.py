"""Questions and texts in which their answers stand: question first, then the text, or a window of it.

The labels are the places of the answer's first and last token in the sequence; 0 and 0 where the answer is not in the
window. Places where an answer may stand have weight 1: the text's, and the very first, which means "not here". A text
that is too long becomes windows that overlap by a third (Devlin et al. 2019, in the code: 128 of 384 tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from core.data.encodings.encoder import Encoder
from core.data.encodings.reading import Ids, read_as, room
from core.data.examples import Question, TokenExample, TokenSequence
from core.data.spans import Spans, encode_spans

NOWHERE = (0, 0)


@dataclass(frozen=True)
class Window:
    """Part of a text, beside its question."""

    sequence: TokenSequence
    before: int
    """tokens before the text"""
    spans: Spans
    """where the window's tokens stand in the text, in characters"""


def encode(examples: Sequence[Question], encoder: Encoder) -> list[list[TokenExample]]:
    found = windows([e.question for e in examples], [e.context for e in examples], encoder)
    return [
        [TokenExample((window.sequence,), tuple(map(float, place(window, example)))) for window in of_example]
        for example, of_example in zip(examples, found, strict=True)
    ]


def windows(questions: Sequence[str], contexts: Sequence[str], encoder: Encoder) -> list[list[Window]]:
    """Of each question and its text. Of a question, at most what leaves half the row to the text."""
    most = room(encoder, texts=2)
    asked = encoder.tokenizer.encode_batch(list(questions))
    found = []
    for question, (ids, spans) in zip(asked, encode_spans(encoder.tokenizer, contexts), strict=True):
        if most is None:
            cuts = [(0, len(ids))]
        else:
            question = question[: max(1, most // 2)]
            cuts = overlapping(len(ids), max(1, most - len(question)))
        found.append([_window(encoder, question, ids[begin:end], spans[begin:end]) for begin, end in cuts])
    return found


def overlapping(size: int, most: int) -> list[tuple[int, int]]:
    """Pieces of at most `most` of `size` tokens, each but the first beginning in the last third of the one before."""
    step = most - most // 3
    begins = range(0, max(size - most // 3, 1), step)
    return [(begin, min(begin + most, size)) for begin in begins]


def place(window: Window, example: Question) -> tuple[int, int]:
    """Of the answer's first and last token in the window's sequence; `NOWHERE` where not all of it is there."""
    begin, end = example.start, example.start + len(example.answer)
    if begin < 0 or not window.spans or begin < window.spans[0][0] or end > window.spans[-1][1]:
        return NOWHERE
    inside = [at for at, (first, last) in enumerate(window.spans) if first < end and last > begin]
    return (window.before + inside[0], window.before + inside[-1]) if inside else NOWHERE


def _window(encoder: Encoder, question: Ids, ids: Ids, spans: Spans) -> Window:
    framed = read_as(encoder, question, ids)
    behind = 1  # a separator, or the end of the text
    before = len(framed.ids) - behind - len(ids)
    weights = [1.0] + [0.0] * (before - 1) + [1.0] * len(ids) + [0.0] * behind
    return Window(TokenSequence(framed.ids, weights), before, spans)
