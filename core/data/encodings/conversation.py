"""Conversations: the chat template's rendering; the answers are learned."""

from collections.abc import Sequence

from core.data.chat_template import encode_conversations
from core.data.encodings.encoder import Encoder
from core.data.examples import Conversation, TokenExample


def encode(examples: Sequence[Conversation], encoder: Encoder) -> list[list[TokenExample]]:
    sequences = encode_conversations(encoder.tokenizer, examples, encoder.renderer)
    return [[TokenExample((sequence,))] for sequence in sequences]
