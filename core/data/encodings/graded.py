"""Prompts that the model will answer: one lane, the prompt and then a token in the place where the answer begins. The
row's other keys go along as JSON."""

import json
from collections.abc import Sequence

from core.data.chat_template import encode_prompts
from core.data.encodings.encoder import Encoder
from core.data.examples import GradedPrompt, TokenExample, TokenSequence
from core.errors import InvalidData


def encode(examples: Sequence[GradedPrompt], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: a row lacks a key that the grader reads.
    """
    needed = [name for name in str(encoder.encoding.settings.get("needed_fields", "")).split("\n") if name]
    for example in examples:
        if missing := [name for name in needed if name not in example.item]:
            raise InvalidData(
                f"the row has no {', '.join(map(repr, missing))}, which the grader reads as `item.{missing[0]}`; "
                f"it has {', '.join(map(repr, example.item)) or 'nothing but messages'}",
                code="grader_field_missing",
                hint="add the key to every row, or correct the grader",
            )
    prompts = encode_prompts(encoder.tokenizer, [example.conversation for example in examples], encoder.renderer)
    end = encoder.tokenizer.end_of_text
    return [
        [
            TokenExample(
                (TokenSequence([*ids, end], [0.0] * len(ids) + [1.0]),),
                item=json.dumps(example.item),  # ASCII: a line stays a line
            )
        ]
        for ids, example in zip(prompts, examples, strict=True)
    ]
