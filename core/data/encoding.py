"""Examples as tokens: the one code path of training and of previews."""

from collections.abc import Sequence

from core.data.chat_template import encode_conversations
from core.data.examples import Conversation, Document, Example, PromptCompletion, TokenExample
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer


def encode_examples(tokenizer: Tokenizer, examples: Sequence[Example], renderer: Renderer) -> list[TokenExample]:
    """Tokenize examples of one kind together.

        Document            start, text, end of text          everything is learned
        PromptCompletion    prompt, completion, end of text   the completion and the end are learned
        Conversation        its chat template's rendering     the answers are learned

    The start stands before a prompt only where the tokenizer's authors put it before every text, or where the prompt
    is empty and the completion's first token would have nothing to follow.

    Raises:
        InvalidData: the chat template fails.
    """
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    if isinstance(examples[0], Document):
        texts = [example.text for example in examples if isinstance(example, Document)]
        encoded = [[start, *ids, end] for ids in tokenizer.encode_batch(texts)]
        return [TokenExample(ids, [1.0] * len(ids)) for ids in encoded]
    if isinstance(examples[0], PromptCompletion):
        pairs = [example for example in examples if isinstance(example, PromptCompletion)]
        prompts = tokenizer.encode_batch([pair.prompt for pair in pairs])
        completions = tokenizer.encode_batch([pair.completion for pair in pairs], continues=True)
        return [
            _joined([start, *prompt] if tokenizer.prepends_start or not prompt else prompt, [*completion, end])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
    return encode_conversations(tokenizer, [e for e in examples if isinstance(e, Conversation)], renderer)


def _joined(prompt: list[int], completion: list[int]) -> TokenExample:
    return TokenExample(prompt + completion, [0.0] * len(prompt) + [1.0] * len(completion))
