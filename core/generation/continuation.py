"""`Continuation`: one answer while it is being written, and how its tokens become the lines that are sent."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.errors import CoreError, InvalidRequest
from core.generation.sampling import Ranked, Sampler
from core.generation.text import Piece, TextStream
from core.generation_request import Done, Error, ScoredToken, Scores, Token
from core.sampling_params import SamplingParams

Line = Token | Done | Error
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Prompt:
    """The ids that one or several answers continue."""

    ids: list[int]
    is_scored: bool
    """the log-probabilities of its own tokens are wanted"""
    ranked: list[Ranked | None] = field(default_factory=list)
    """one for each id as far as computed; the first has none"""
    logits_V: Tensor | None = None
    """after the last id: what each answer's first token is chosen from"""
    holders: list["Continuation"] = field(default_factory=list)
    """answers that have a slot: the first computes the prompt, the others copy it"""


@dataclass(eq=False)
class Continuation:
    """One answer to one prompt."""

    prompt: Prompt
    choice: int
    params: SamplingParams
    max_tokens: int
    tokenizer: Tokenizer
    sampler: Sampler
    text: TextStream
    slot: int = -1
    length: int = 0
    """positions of the slot that are computed"""
    tokens: list[int] = field(default_factory=list)
    is_paused: bool = False
    """its reader is behind: keeps its slot, gets no tokens"""
    is_cancelled: bool = False
    _ranked: dict[int, Ranked] = field(default_factory=dict)
    """of tokens that wait to be shown, by position"""

    def echoed(self) -> list[Line]:
        """The prompt, as the beginning of the answer."""
        text, lines = TextStream(self.tokenizer), []
        for position, id in enumerate(self.prompt.ids):
            pieces, _ = text.push(id)
            ranked = self.prompt.ranked[position] if self.prompt.is_scored else None
            scores = self._scores(id, ranked) if self.prompt.is_scored else None
            lines.append(Token(choice=self.choice, text="".join(p.text for p in pieces), scores=scores))
        rest = "".join(piece.text for piece in text.finish())
        return [*lines, Token(choice=self.choice, text=rest)] if rest else [*lines]

    def take(self, token: int, ranked: Ranked | None) -> list[Line]:
        """Add a token. The last line is `Done` when that was the last one."""
        position = len(self.tokens)
        self.tokens.append(token)
        if token in self.tokenizer.stop_ids:
            return self.end("stop")
        if ranked is not None:
            self._ranked[position] = ranked
        pieces, stopped = self.text.push(token)
        lines = self._shown(pieces)
        if stopped:
            return [*lines, Done(choice=self.choice, finish_reason="stop")]
        return lines + (self.end("length") if len(self.tokens) >= self.max_tokens else [])

    def end(self, reason: str) -> list[Line]:
        done = Done.model_validate({"choice": self.choice, "finish_reason": reason})
        return [*self._shown(self.text.finish()), done]

    def _shown(self, pieces: list[Piece]) -> list[Line]:
        return [
            Token(
                choice=self.choice,
                text=piece.text,
                scores=self._scores(piece.token, self._ranked.pop(piece.position))
                if piece.token is not None and piece.position in self._ranked
                else None,
            )
            for piece in pieces
        ]

    def _scores(self, token: int, ranked: Ranked | None) -> Scores:
        logprob, top = ranked or (None, [])
        wanted = top[: self.params.logprobs or 0]
        return Scores(
            **_spelled(self.tokenizer, token, logprob),
            top=tuple(ScoredToken(**_spelled(self.tokenizer, id, value)) for id, value in wanted),
        )


def _spelled(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, object]:
    spelling = tokenizer.token_bytes(token)
    shown = () if tokenizer.is_special(token) else tuple(spelling)
    return {"token": spelling.decode("utf-8", "replace"), "bytes": shown, "logprob": logprob}


def failure(error: Exception) -> Error:
    """The last line of an answer that failed."""
    if isinstance(error, CoreError):
        return Error(code=error.code, message=error.message, param=error.param, hint=error.hint)
    _log.error("an answer failed", exc_info=error)
    return Error(code="internal_error", message="The generator failed on this request; its log says why.")


def continuations(
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    vocab_size: int,
    are_sources: bool = False,
) -> list[Continuation]:
    """The answers to a request, `n` for each prompt; refuses here, before any tensor, what can never be served.

    `are_sources`: an encoder reads the prompts, and the answers have the context for themselves.

    Raises:
        InvalidRequest: a prompt does not fit the context (code `context_length_exceeded`), an id does not exist, or
            this kind of model does not do it.
    """
    _check_ids("logit_bias", params.logit_bias, vocab_size)
    _check_kind(params, are_sources=are_sources)
    answers: list[Continuation] = []
    for ids in prompts:
        _check_ids("prompt", ids, vocab_size)
        room = _room_beside_source if are_sources else _room
        max_tokens = room(len(ids), params.max_tokens, context_length)
        prompt = Prompt(ids=list(ids), is_scored=params.echo and params.logprobs is not None)
        answers += [
            Continuation(
                prompt=prompt,
                choice=len(answers) + copy,
                params=params,
                max_tokens=max_tokens,
                tokenizer=tokenizer,
                sampler=Sampler(params, copy=copy),
                text=TextStream(tokenizer, params.stop),
            )
            for copy in range(params.n)
        ]
    return answers


def _check_ids(param: str, ids: Sequence[int] | dict[int, float], vocab_size: int) -> None:
    wrong = next((id for id in ids if not 0 <= id < vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{param}: token id {wrong} does not exist; this model's ids are 0 to {vocab_size - 1}", param=param
        )


def _check_kind(params: SamplingParams, *, are_sources: bool) -> None:
    if params.num_beams > 1 and not are_sources:
        raise InvalidRequest(
            "`num_beams`: only encoder-decoders are searched with beams, and this model is a decoder.",
            param="num_beams",
            hint="Leave it out; `temperature` 0 takes the likeliest token each time.",
        )
    if params.num_beams > 1 and params.n > params.num_beams:
        raise InvalidRequest(
            f"`n`: {params.num_beams} beams find {params.num_beams} answers at most, not {params.n}.", param="n"
        )
    if params.max_tokens == 0 and are_sources:
        raise InvalidRequest("`max_tokens`: an encoder-decoder's answer has at least 1.", param="max_tokens")
    if params.echo and are_sources:
        raise InvalidRequest(
            "`echo`: the answer of an encoder-decoder does not go on from the prompt; leave it out.", param="echo"
        )


def _room_beside_source(source_tokens: int, max_tokens: int | None, context_length: int) -> int:
    """An answer has as much room as a source: the context each. It ends by itself, so a bound beyond that is one."""
    if source_tokens > context_length:
        raise InvalidRequest(
            f"This model reads at most {context_length} tokens; the prompt has {source_tokens}. Shorten it.",
            code="context_length_exceeded",
            param="prompt",
        )
    return min(context_length, max_tokens or context_length)


def _room(prompt_tokens: int, max_tokens: int | None, context_length: int) -> int:
    if prompt_tokens == 0:
        raise InvalidRequest("the prompt is empty; give at least one token", param="prompt")
    asked = (1 if prompt_tokens >= context_length else 0) if max_tokens is None else max_tokens
    if prompt_tokens + asked > context_length:
        raise InvalidRequest(
            f"This model's maximum context length is {context_length} tokens. You asked for {prompt_tokens + asked} "
            f"({prompt_tokens} in the prompt, {asked} to be generated). Shorten the prompt or lower `max_tokens`.",
            code="context_length_exceeded",
            param="max_tokens" if prompt_tokens < context_length else "prompt",
        )
    return context_length - prompt_tokens if max_tokens is None else max_tokens
