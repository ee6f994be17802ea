"""Preferences: two lanes, chosen and rejected; of each, the answer is learned."""

from collections.abc import Sequence

from core.data.chat_template import encode_conversations
from core.data.encodings import completion
from core.data.encodings.encoder import Encoder
from core.data.examples import Conversation, Preference, PromptCompletion, TokenExample, TokenSequence


def encode(examples: Sequence[Preference], encoder: Encoder) -> list[list[TokenExample]]:
    chosen = answers([example.chosen for example in examples], encoder)
    rejected = answers([example.rejected for example in examples], encoder)
    return [[TokenExample(pair)] for pair in zip(chosen, rejected, strict=True)]


def answers(examples: Sequence[Conversation | PromptCompletion], encoder: Encoder) -> list[TokenSequence]:
    """Prompt and answer of each, as they stand alone; a file may have both kinds."""
    chats = [example for example in examples if isinstance(example, Conversation)]
    texts = [example for example in examples if isinstance(example, PromptCompletion)]
    rendered = iter(encode_conversations(encoder.tokenizer, chats, encoder.renderer) if chats else ())
    joined = iter(completion.sequences(texts, encoder.tokenizer) if texts else ())
    return [next(rendered if isinstance(example, Conversation) else joined) for example in examples]
