"""Conversations as tokens: which ids a chat becomes, and which of them are learned.

A conversation is rendered by the chat template of the model. In the text that comes out, special tokens that the
template wrote become special ids, and those that a user wrote stay text (`core.data.marks`).

Learned are the answers of weighted assistant messages: from the end of the generation prompt to the token that ends the
turn. Text is cut into tokens anew where an answer begins, as it will be when the model answers.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from core.data.chatml import CHATML
from core.data.examples import Conversation, TokenSequence, Turn
from core.data.marks import Marks, marks_for, special_strings
from core.data.renderer import Rendered, Renderer, messages_of
from core.data.special_tokens import TURN_END, TURN_START
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData

__all__ = ["CHATML", "Renderer", "encode_conversation", "encode_conversations", "encode_prompt", "render"]

NEITHER = (False, False)


def render(
    template: str,
    turns: Sequence[Turn],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = False,
    specials: Mapping[str, str] | None = None,
) -> str:
    """One rendering, for which a child is started and ended. Who has many keeps a `Renderer`."""
    with Renderer() as renderer:
        return renderer.render(
            template, turns, tools=tools, add_generation_prompt=add_generation_prompt, specials=specials
        )


def encode_conversation(tokenizer: Tokenizer, conversation: Conversation, renderer: Renderer) -> TokenSequence:
    """Ids and weights of a conversation to learn from.

    Raises:
        InvalidData: the template fails, or does not say where an answer begins (`chat_template_not_prefix`).
    """
    return encode_conversations(tokenizer, [conversation], renderer)[0]


def encode_conversations(
    tokenizer: Tokenizer, conversations: Iterable[Conversation], renderer: Renderer
) -> list[TokenSequence]:
    """`encode_conversation` for many, tokenized together."""
    return _encode(tokenizer, [_script(tokenizer, c, renderer, for_training=True) for c in conversations])


def encode_prompt(tokenizer: Tokenizer, conversation: Conversation, renderer: Renderer) -> list[int]:
    """Ids after which the model answers.

    Raises:
        InvalidData: the template fails.
    """
    return encode_prompts(tokenizer, [conversation], renderer)[0]


def encode_prompts(tokenizer: Tokenizer, conversations: Iterable[Conversation], renderer: Renderer) -> list[list[int]]:
    """`encode_prompt` for many, tokenized together."""
    scripts = [_script(tokenizer, conversation, renderer, for_training=False) for conversation in conversations]
    return [sequence.ids for sequence in _encode(tokenizer, scripts)]


@dataclass
class _Script:
    """A rendered conversation in pieces: a special id, or text to tokenize, each learned or not."""

    pieces: list[int | str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def template_of(tokenizer: Tokenizer) -> str:
    """
    Raises:
        InvalidData: the tokenizer has none, and not the tokens for the built-in one.
    """
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    if TURN_START in tokenizer.specials and TURN_END in tokenizer.specials:
        return CHATML
    raise InvalidData(
        "the model has no chat template, so it cannot take conversations",
        code="chat_template_missing",
        hint="put a chat_template.jinja into its directory, or use prompts and completions",
    )


def _script(tokenizer: Tokenizer, conversation: Conversation, renderer: Renderer, *, for_training: bool) -> _Script:
    template = template_of(tokenizer)
    messages, tools = messages_of(template, conversation.turns), list(conversation.tools)
    marks = marks_for(tokenizer.specials, template, messages, tools)
    if marks is not None:
        messages, tools = marks.on(messages), marks.on(tools)
    learned = [i for i, turn in enumerate(conversation.turns) if turn.weight] if for_training else []
    rendered = renderer.render_messages(
        template,
        messages,
        tools=tools,
        add_generation_prompt=not for_training,
        specials=tokenizer.special_names,
        answers=learned,
    )
    return _cut(tokenizer, rendered, learned, marks)


def _cut(tokenizer: Tokenizer, rendered: Rendered, learned: Sequence[int], marks: Marks | None) -> _Script:
    """Cut the text at special tokens, and where answers begin and end."""
    text, specials, strips = rendered.text, tokenizer.specials, tokenizer.strips
    found = list(special_strings(tuple(specials)).pattern.finditer(text))
    answers = sorted(_through_turn_end(text, rendered.spans[i], found) for i in learned)
    begins = [begin for begin, _ in answers]
    special_at = {match.start(): match.group() for match in found}
    cuts = {0, len(text), *special_at, *(match.end() for match in found)}
    cuts.update(begin for begin, _ in rendered.spans.values())
    cuts.update(end for _, end in answers)
    script, before = _Script(), ""
    places = sorted(cuts)
    for at, until in pairwise(places):
        name = special_at.get(at, "")
        piece: int | str
        if name:
            piece = specials[name]
        else:
            piece = marks.off(text[at:until]) if marks is not None else text[at:until]
            if strips:
                piece = piece.lstrip() if strips.get(before, NEITHER)[1] else piece
                piece = piece.rstrip() if strips.get(special_at.get(until, ""), NEITHER)[0] else piece
        answer = bisect_right(begins, at) - 1
        script.pieces.append(piece)
        script.weights.append(1.0 if answer >= 0 and at < answers[answer][1] else 0.0)
        before = name
    return script


def _through_turn_end(text: str, span: tuple[int, int], found: Sequence[re.Match[str]]) -> tuple[int, int]:
    """The span without the white space that a template writes behind the token that ends the turn."""
    begin, end = span
    last = bisect_left(found, end, key=re.Match.start) - 1
    if last >= 0 and found[last].start() >= begin and not text[found[last].end() : end].strip():
        return begin, found[last].end()
    return span


def _encode(tokenizer: Tokenizer, scripts: Sequence[_Script]) -> list[TokenSequence]:
    """Tokenize the texts of all scripts together, each distinct one once."""
    firsts = {s.pieces[0]: 0 for s in scripts if s.pieces and isinstance(s.pieces[0], str)}
    others = {piece: 0 for s in scripts for piece in s.pieces[1:] if isinstance(piece, str)}
    first_ids = dict(zip(firsts, tokenizer.encode_batch(list(firsts)), strict=True))
    other_ids = dict(zip(others, tokenizer.encode_batch(list(others), continues=True), strict=True))
    examples = []
    for script in scripts:
        ids: list[int] = []
        weights: list[float] = []
        for nth, (piece, weight) in enumerate(zip(script.pieces, script.weights, strict=True)):
            here = [piece] if isinstance(piece, int) else (other_ids if nth else first_ids)[piece]
            ids += here
            weights += [weight] * len(here)
        examples.append(TokenSequence(ids, weights))
    return examples
