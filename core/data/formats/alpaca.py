"""Format `alpaca`: {"instruction": "…", "input": "…", "output": "…"}, also with "system" and "history", as chat.

The user's turn is the instruction and, on a line of its own, the input. "history" holds earlier pairs of a user's and
an assistant's text: [["…", "…"], …]; their answers are learned too.
"""

from typing import Any, ClassVar

from core.data.examples import Conversation, Turn
from core.data.records import (
    MAX_TURNS,
    ROW,
    array_of,
    check_keys,
    checked_text,
    filled_text_of,
    optional_text_of,
    text_of,
)


class Alpaca:
    kind: ClassVar[str] = "alpaca"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction", "output"),)
    yields: ClassVar[type] = Conversation

    @staticmethod
    def parse(record: dict[str, Any]) -> Conversation:
        check_keys(record, known=("instruction", "input", "output", "system", "history"), where=ROW)
        instruction, more = text_of(record, "instruction", where=ROW), optional_text_of(record, "input")
        asked = "\n".join(text for text in (instruction, more) if text)
        if not asked:
            raise ValueError("the row's 'instruction' is empty; fill it in or remove the row")
        system = optional_text_of(record, "system")
        return Conversation(
            (
                *([Turn("system", system)] if system else []),
                *_history(record),
                Turn("user", asked),
                Turn("assistant", filled_text_of(record, "output"), weight=1.0),
            )
        )


def _history(record: dict[str, Any]) -> list[Turn]:
    if record.get("history") in (None, ""):
        return []
    turns = []
    for i, pair in enumerate(array_of(record, "history", max_items=MAX_TURNS // 2)):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"history[{i}] is no pair of strings; give [what the user said, what was answered]")
        user, answer = (checked_text(text, where=f"history[{i}]") for text in pair)
        turns += [Turn("user", user), Turn("assistant", answer, weight=1.0)]
    return turns
