"""Format `graded`: {"messages": [… the last is the user's], "reference_answer": "…"} and any other keys, for answers
that graders judge; they see every key but the messages as `item.key`."""

from typing import Any, ClassVar

from core.data.examples import Conversation, GradedPrompt
from core.data.messages import KEYS, conversation_of, unlearned
from core.data.records import MAX_NAME_CHARACTERS, check_depth, checked_text, shown

MAX_KEYS = 256


class Graded:
    kind: ClassVar[str] = "graded"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("messages", "reference_answer"),)
    yields: ClassVar[type] = GradedPrompt

    @staticmethod
    def parse(record: dict[str, Any]) -> GradedPrompt:
        conversation = conversation_of({key: record.get(key) for key in KEYS})
        last = conversation.turns[-1].role
        if last not in ("user", "tool"):
            raise ValueError(
                f"the last message is from the {last}, but the model is to answer; "
                "remove it, or keep it under a key of your own for the graders"
            )
        item = {key: value for key, value in record.items() if key not in KEYS}
        if len(item) > MAX_KEYS:
            raise ValueError(f"the row has {len(item)} keys; at most {MAX_KEYS} are allowed")
        for key in item:
            if len(key) > MAX_NAME_CHARACTERS:
                raise ValueError(
                    f"the key {shown(key)} is too long; at most {MAX_NAME_CHARACTERS} characters are allowed"
                )
            checked_text(key, where="a key")
        check_depth(item, where="the row")
        return GradedPrompt(Conversation(unlearned(conversation.turns), conversation.tools), item)
