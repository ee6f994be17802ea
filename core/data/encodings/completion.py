"""Prompts with completions, without a chat template: prompt, completion, end of text; the completion and the end are
learned.

The start stands before a prompt only where the tokenizer's authors put it before every text, or where the prompt is
empty and the completion's first token would have nothing to follow. An encoder-decoder reads the prompt as a source.
"""

from collections.abc import Sequence

from core.data.encodings import text_pair
from core.data.encodings.encoder import Encoder
from core.data.examples import PromptCompletion, TokenExample, TokenSequence
from core.data.tokenizer import Tokenizer


def encode(examples: Sequence[PromptCompletion], encoder: Encoder) -> list[list[TokenExample]]:
    if encoder.encoding.model == "encoder_decoder":
        return text_pair.pairs([e.prompt for e in examples], [e.completion for e in examples], encoder.tokenizer)
    return [[TokenExample((sequence,))] for sequence in sequences(examples, encoder.tokenizer)]


def sequences(examples: Sequence[PromptCompletion], tokenizer: Tokenizer) -> list[TokenSequence]:
    """One for each example."""
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    completions = tokenizer.encode_batch([example.completion for example in examples], continues=True)
    return [
        _joined([start, *prompt] if tokenizer.prepends_start or not prompt else prompt, [*completion, end])
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _joined(prompt: list[int], completion: list[int]) -> TokenSequence:
    return TokenSequence(prompt + completion, [0.0] * len(prompt) + [1.0] * len(completion))
