"""Format `chat`."""

from typing import Any, ClassVar

from core.data.examples import Conversation


class Chat:
    kind: ClassVar[str] = "chat"
    yields: ClassVar[type] = Conversation

    @staticmethod
    def parse(record: dict[str, Any]) -> Conversation:
        raise ValueError("this format is not written yet")
