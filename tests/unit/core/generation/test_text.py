"""Text that may be shown: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.tokenizer import Tokenizer
from core.generation.text import TextStream

TOKENIZER = Tokenizer.bytes()


def streamed(text: str, *stop: str) -> tuple[list[str], bool]:
    """The pieces of a text that arrives byte by byte."""
    stream, pieces = TextStream(TOKENIZER, stop), []
    for id in TOKENIZER.encode(text):
        ready, stopped = stream.push(id)
        pieces += [piece.text for piece in ready]
        if stopped:
            return pieces, True
    return pieces + [piece.text for piece in stream.finish()], False


@pytest.mark.parametrize(
    ("text", "stop", "shown", "stopped"),
    [
        ("hello", [], "hello", False),
        ("one\n\ntwo", ["\n\n"], "one", True),
        ("one\ntwo", ["\n\n"], "one\ntwo", False),
        ("one\n", ["\n\n"], "one\n", False),  # what waited is shown at the end
        ("aaab", ["aab"], "a", True),  # the stop string begins inside a false start
        ("abcabd", ["abd"], "abc", True),
        ("xENDy", ["ENDE", "END"], "x", True),
        ("STOP", ["STOP"], "", True),
        ("grüße €5", ["€"], "grüße ", True),
        ("héllo", ["é"], "h", True),
    ],
)
def test_stop_strings_are_never_shown(text: str, stop: list[str], shown: str, stopped: bool) -> None:
    pieces, was_stopped = streamed(text, *stop)
    assert ("".join(pieces), was_stopped) == (shown, stopped)


def test_only_what_may_be_a_stop_string_waits() -> None:
    stream = TextStream(TOKENIZER, ["\n\nQ:"])
    shown = ["".join(piece.text for piece in stream.push(id)[0]) for id in TOKENIZER.encode("a\nb\n\nc")]
    assert shown == ["a", "", "\nb", "", "", "\n\nc"]


def test_a_character_is_shown_when_it_is_whole() -> None:
    pieces, _ = streamed("€")
    assert pieces == ["", "", "€"]
    stream = TextStream(TOKENIZER)
    stream.push("€".encode()[0])
    assert [(piece.token, piece.text) for piece in stream.finish()] == [(None, "\ufffd")]


@given(st.text(alphabet="ab\n€", max_size=30), st.lists(st.text(alphabet="ab\n€", min_size=1, max_size=4), max_size=4))
def test_shown_is_all_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    """The oracle looks for the stop string that is complete first; at a tie, for the one that begins first."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(ends)[1]] if ends else text
    pieces, stopped = streamed(text, *stop)
    assert "".join(pieces) == expected
    assert stopped == bool(ends)


class Words:
    """A tokenizer whose tokens are whole words, so that stop strings lie inside and across tokens."""

    words = ("the end", " of", " the", " end. And", "\n", "Q")

    def token_bytes(self, id: int) -> bytes:
        return self.words[id].encode()

    def is_special(self, id: int) -> bool:
        return False


def test_stop_strings_across_and_inside_tokens() -> None:
    stream = TextStream(Words(), ["the end."])  # type: ignore[arg-type]
    shown = [stream.push(id) for id in (0, 1, 2, 3)]
    texts = ["".join(piece.text for piece in pieces) for pieces, _ in shown]
    assert texts == [
        "",
        "the end of",
        "",
        " ",
    ]  # " the" waits; " end. And" completes the stop string, its end is dropped
    assert [stopped for _, stopped in shown] == [False, False, False, True]
    inside = TextStream(Words(), ["d. A"])  # type: ignore[arg-type]
    pieces, stopped = inside.push(3)
    assert stopped
    assert [(piece.token, piece.text) for piece in pieces] == [(3, " en")]
