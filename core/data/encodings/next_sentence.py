"""Documents as pairs of texts, of which the second follows the first or comes from elsewhere.

A text is a run of whole sentences. As many as fit a row are taken together and divided at a random sentence; by a coin,
what follows is exchanged for as many tokens of another document, and then is taken again as the next pair's beginning.
Devlin et al. 2018, arXiv:1810.04805, appendix A.2, and the authors' code. All is drawn from the seed and the document.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from core.data.draws import generator_for, integers
from core.data.encodings.encoder import Encoder
from core.data.encodings.framing import frame_size, framed, windows
from core.data.encodings.masked import check_mask
from core.data.examples import TokenExample

_SENTENCE_END = re.compile(
    r"(?:[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s)"  # a full stop before a space
    r"|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]*)[\r\n]*"  # Chinese and Japanese need no space
    r"|[\r\n]+"
)
FOLLOWS, FOLLOWS_NOT = (1.0, 0.0), (0.0, 1.0)
"""labels, in the order of BERT's own second head"""

Sentences = list[list[int]]


def encode(texts: Sequence[str], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the tokenizer has no mask token.
    """
    tokenizer = encoder.tokenizer
    check_mask(tokenizer)
    room = encoder.row - frame_size(tokenizer, texts=2)
    found = [sentences(text) for text in texts]
    encoded = iter(tokenizer.encode_batch(list(chain.from_iterable(found)), continues=True))
    documents = [[window for _ in text for window in windows(next(encoded), room)] for text in found]
    examples = []
    for number, text in enumerate(texts):
        random = generator_for(encoder.encoding.seed or 0, text.encode())
        pairs = _Pairs(documents, number, room, random).all()
        examples.append(
            [
                TokenExample((framed(tokenizer, first, second),), FOLLOWS if follows else FOLLOWS_NOT)
                for first, second, follows in pairs
            ]
        )
    return examples


def sentences(text: str) -> list[str]:
    """The text in pieces that each end with a sentence or a line; nothing is lost."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if b > a]


@dataclass(frozen=True)
class _Pairs:
    """Of one document among others."""

    documents: list[Sentences]
    number: int
    room: int
    random: np.random.Generator

    def all(self) -> list[tuple[list[int], list[int], bool]]:
        """(first, second, whether it follows)."""
        left = [sentence for sentence in self.documents[self.number] if sentence][::-1]
        pairs = []
        while taken := self._take(left):
            first, *rest = self._divide(taken)
            second = list(chain.from_iterable(rest))
            follows = not self._draw(2)
            if not follows:
                left.extend(rest[::-1])
                second = self._elsewhere(len(second))
            pairs.append((first, second, follows))
        return pairs

    def _take(self, left: Sentences) -> Sentences:
        """The next sentences that fit together; none where fewer than two tokens are left."""
        taken: Sentences = []
        size = 0
        while left and size + len(left[-1]) <= self.room:
            size += len(left[-1])
            taken.append(left.pop())
        return taken if size > 1 else []

    def _divide(self, taken: Sentences) -> Sentences:
        """The first text, and the sentences that follow it; a single sentence is cut in two."""
        if len(taken) == 1:
            cut = 1 + self._draw(len(taken[0]) - 1)
            return [taken[0][:cut], taken[0][cut:]]
        cut = 1 + self._draw(len(taken) - 1)
        return [list(chain.from_iterable(taken[:cut])), *taken[cut:]]

    def _elsewhere(self, size: int) -> list[int]:
        """So many tokens from a random sentence of another document on; of the same one, where there is no other."""
        others = [n for n, document in enumerate(self.documents) if n != self.number and document]
        document = self.documents[others[self._draw(len(others))] if others else self.number]
        begin = self._draw(len(document))
        return list(chain.from_iterable(document[begin:]))[:size]

    def _draw(self, bound: int) -> int:
        return int(integers(self.random, 1, bound)[0])
