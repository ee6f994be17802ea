"""Examples as tokens: the one code path of training and of previews. One file for each kind of example.

A file holds `encode(examples, encoder)`, which tokenizes many examples together and gives a list for each: most become
one `TokenExample`, a long text may become several.
"""

from collections.abc import Callable, Sequence
from typing import Any

from core.data.encodings import (
    completion,
    conversation,
    graded,
    judged,
    labelled,
    preference,
    question,
    scored,
    similar,
    tagged,
    text,
    text_pair,
)
from core.data.encodings.encoder import Encoder
from core.data.examples import (
    Conversation,
    Document,
    Example,
    GradedPrompt,
    Judged,
    Labelled,
    Preference,
    PromptCompletion,
    Question,
    Scored,
    Similar,
    Tagged,
    TextPair,
    TokenExample,
)

Encode = Callable[[Sequence[Any], Encoder], list[list[TokenExample]]]
ENCODINGS: dict[type, Encode] = {
    Document: text.encode,
    PromptCompletion: completion.encode,
    Conversation: conversation.encode,
    Preference: preference.encode,
    Judged: judged.encode,
    GradedPrompt: graded.encode,
    Labelled: labelled.encode,
    Scored: scored.encode,
    Tagged: tagged.encode,
    Question: question.encode,
    Similar: similar.encode,
    TextPair: text_pair.encode,
}


def encode_examples(examples: Sequence[Example], encoder: Encoder) -> list[list[TokenExample]]:
    """Tokenize examples of one kind together.

    Raises:
        InvalidData: the chat template fails.
    """
    return ENCODINGS[type(examples[0])](examples, encoder)
