"""From a generator's lines to OpenAI's objects: whole, or chunk by chunk."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.generation_request import Answer, Done, ScoredToken, Scores, Token, Usage
from core.jobs.ids import new_id

Json = dict[str, Any]


@dataclass
class Reply:
    """What every object of one answer has in common."""

    kind: str
    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def object(self, choices: list[Json], *, usage: Usage | None = None, **more: Any) -> Json:
        shown = {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return shown | more | ({"usage": usage_of(usage)} if usage else {})


def usage_of(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class Completion:
    """`text_completion`, whole and as chunks: the same object."""

    def __init__(self, model: str, fingerprint: str, num_choices: int) -> None:
        self._reply = Reply("text_completion", new_id("cmpl-"), model, fingerprint)
        self._offsets = [0] * num_choices

    def whole(self, lines: Iterable[Answer]) -> Json:
        choices: list[Json] = [
            {"index": i, "text": "", "logprobs": None, "finish_reason": None} for i in range(len(self._offsets))
        ]
        usage = None
        for line in lines:
            match line:
                case Token():
                    choice = choices[line.choice]
                    if line.scores is not None:
                        _extend(choice, self._logprobs(line, line.scores))
                    choice["text"] += line.text
                    self._offsets[line.choice] += len(line.text)
                case Done():
                    choices[line.choice]["finish_reason"] = line.finish_reason
                case Usage():
                    usage = line
        return self._reply.object(choices, usage=usage)

    def begin(self) -> Iterator[Json]:
        return iter(())

    def chunk(self, line: Token | Done) -> Json:
        text, logprobs, reason = "", None, None
        if isinstance(line, Token):
            text = line.text
            logprobs = self._logprobs(line, line.scores) if line.scores else None
            self._offsets[line.choice] += len(text)
        else:
            reason = line.finish_reason
        choice = {"index": line.choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return self._reply.object([choice])

    def end(self, usage: Usage) -> Json:
        return self._reply.object([], usage=usage)

    def _logprobs(self, line: Token, scores: Scores) -> Json:
        """The token taken is among the alternatives, even where it is not one of the most probable."""
        known = scores.logprob is not None
        top = {_legible(scored): scored.logprob for scored in (*scores.top, scores)} if known else None
        return {
            "tokens": [_legible(scores)],
            "token_logprobs": [scores.logprob],
            "top_logprobs": [top],
            "text_offset": [self._offsets[line.choice]],
        }


class Chat:
    """`chat.completion`, and `chat.completion.chunk` in streams."""

    def __init__(self, model: str, fingerprint: str, num_choices: int) -> None:
        self._reply = Reply("chat.completion", new_id("chatcmpl-"), model, fingerprint)
        self._num_choices = num_choices

    def whole(self, lines: Iterable[Answer]) -> Json:
        choices: list[Json] = [
            {
                "index": i,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
            for i in range(self._num_choices)
        ]
        usage = None
        for line in lines:
            match line:
                case Token():
                    choice = choices[line.choice]
                    choice["message"]["content"] += line.text
                    if line.scores is not None:
                        _extend(choice, {"content": [_scored(line.scores)], "refusal": None})
                case Done():
                    choices[line.choice]["finish_reason"] = line.finish_reason
                case Usage():
                    usage = line
        return self._reply.object(choices, usage=usage)

    def begin(self) -> Iterator[Json]:
        self._reply.kind = "chat.completion.chunk"
        for i in range(self._num_choices):
            yield self._chunk(i, {"role": "assistant", "content": "", "refusal": None})

    def chunk(self, line: Token | Done) -> Json:
        if isinstance(line, Done):
            return self._chunk(line.choice, {}, reason=line.finish_reason)
        logprobs = {"content": [_scored(line.scores)], "refusal": None} if line.scores else None
        return self._chunk(line.choice, {"content": line.text}, logprobs=logprobs)

    def end(self, usage: Usage) -> Json:
        return self._reply.object([], usage=usage)

    def _chunk(self, index: int, delta: Json, *, logprobs: Json | None = None, reason: str | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._reply.object([choice])


def _extend(choice: Json, logprobs: Json) -> None:
    """Add one token's columns to those before it."""
    if choice["logprobs"] is None:
        choice["logprobs"] = logprobs
        return
    for name, column in logprobs.items():
        if column is not None:
            choice["logprobs"][name] += column


def _scored(scores: Scores) -> Json:
    return _alternative(scores) | {"top_logprobs": [_alternative(other) for other in scores.top]}


def _alternative(scored: ScoredToken) -> Json:
    return {"token": scored.token, "logprob": scored.logprob, "bytes": list(scored.bytes) or None}


def _legible(scored: ScoredToken) -> str:
    """The token's text; for a part of a character its bytes, as OpenAI writes them, so that keys differ."""
    try:
        return bytes(scored.bytes).decode() or scored.token
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in scored.bytes)
