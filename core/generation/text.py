"""From tokens to text that may be shown: whole characters only, and nothing of a stop string."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from core.data.tokenizer import DecodeStream, Tokenizer


@dataclass(frozen=True)
class Piece:
    """A token that is ready to be shown, and the text it adds. No token: the stump of a character at the very end."""

    token: int | None
    position: int
    """0 for the first token of the answer"""
    text: str


class TextStream:
    """Text of one answer. What could be the beginning of a stop string waits until it is one or cannot become one."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decode = DecodeStream(tokenizer)
        self._stop = tuple(text for text in stop if text)
        self._held: deque[tuple[int, int, int]] = deque()
        """tokens that wait: id, position, length of their text"""
        self._text = ""
        """the text of those tokens"""
        self._num_tokens = 0

    def push(self, token: int) -> tuple[list[Piece], bool]:
        """What can be shown now, and whether a stop string is complete. Nothing may be pushed after that."""
        added = self._decode.push(token)
        self._held.append((token, self._num_tokens, len(added)))
        self._num_tokens += 1
        self._text += added
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            return self._cut(min(found)), True
        return self._release(len(self._text) - self._waiting()), False

    def finish(self) -> list[Piece]:
        """All that waits, at an end that is no stop string."""
        pieces = self._release(len(self._text))
        rest = self._decode.flush()
        return [*pieces, Piece(None, self._num_tokens, rest)] if rest else pieces

    def _waiting(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, length: int) -> list[Piece]:
        """Tokens whose text lies within the first `length` characters."""
        pieces = []
        while self._held and self._held[0][2] <= length:
            token, position, size = self._held.popleft()
            pieces.append(Piece(token, position, self._text[:size]))
            self._text, length = self._text[size:], length - size
        return pieces

    def _cut(self, length: int) -> list[Piece]:
        """The first `length` characters; a token that goes on after them is cut, those after it are dropped."""
        pieces = self._release(length)
        rest = length - sum(len(piece.text) for piece in pieces)
        if rest:
            token, position, _ = self._held[0]
            pieces.append(Piece(token, position, self._text[:rest]))
        return pieces
