"""Format `chat`: {"messages": [{"role", "content", …}, …], "tools": […]}, as OpenAI's fine-tuning takes it."""

from typing import Any, ClassVar

from core.data.examples import Conversation
from core.data.messages import check_teaches, conversation_of


class Chat:
    kind: ClassVar[str] = "chat"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",),)
    yields: ClassVar[type] = Conversation

    @staticmethod
    def parse(record: dict[str, Any]) -> Conversation:
        """Read a conversation of which at least one assistant turn is learned."""
        conversation = conversation_of(record)
        check_teaches(conversation.turns)
        return conversation
