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
    """Prompt and answer of each, as they stand alone."""
    if isinstance(examples[0], Conversation):
        conversations = [example for example in examples if isinstance(example, Conversation)]
        return encode_conversations(encoder.tokenizer, conversations, encoder.renderer)
    return completion.sequences([e for e in examples if isinstance(e, PromptCompletion)], encoder.tokenizer)
