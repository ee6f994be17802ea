"""The engine: continues many sequences with one model, a token each step (continuous batching; Yu et al. 2022, Orca,
OSDI '22). Sequences join and leave at any step. Pure computation on the thread of whoever calls `step`.

A step seats those that wait, computes a bounded part of new prompts, then one token for each sequence that is being
continued. To the bit, an answer does not depend on its neighbours (CPU): prompts are computed alone and in pieces of a
fixed size, and batches are padded to as many rows as matrix products need to round each row alike.

B rows, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.generation import sampling
from core.generation.continuation import Continuation, Line, failure
from core.generation.kv_cache import KVCache
from core.generation.rounding import min_rows
from core.generation_request import Error
from core.models.transformer import Transformer

PIECE_TOKENS = 256
"""of a prompt, computed at once"""


class Engine:
    """One model, its cache, and the sequences it continues."""

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self.model = model
        self.cache = cache
        self._min_rows = min_rows(model)
        self.waiting: deque[Continuation] = deque()
        self.prefilling: deque[Continuation] = deque()
        self.decoding: list[Continuation] = []

    def submit(self, answers: Sequence[Continuation]) -> None:
        """Add to the queue; how long it may become is the caller's decision."""
        self.waiting.extend(answers)

    @property
    def num_waiting(self) -> int:
        """Answers without a slot."""
        return len(self.waiting)

    @property
    def num_free(self) -> int:
        """Slots."""
        return self.cache.num_free

    @property
    def num_used(self) -> int:
        return self.cache.num_slots - self.cache.num_free

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        can_seat = bool(self.waiting and self.cache.num_free)
        can_decode = any(not answer.is_paused for answer in self.decoding)
        return can_seat or bool(self.prefilling) or can_decode or self._has_cancelled

    @property
    def _has_cancelled(self) -> bool:
        return any(answer.is_cancelled for answer in (*self.waiting, *self.prefilling, *self.decoding))

    @torch.inference_mode()
    def step(self) -> list[tuple[Continuation, Line]]:
        """Go on by one token. Returns what is new, in order."""
        self._drop_cancelled()
        lines = list(self._seat())
        lines += self._prefill()
        lines += self._decode([answer for answer in self.decoding if not answer.is_paused])
        return lines

    def _drop_cancelled(self) -> None:
        if not self._has_cancelled:
            return
        self.waiting = deque(answer for answer in self.waiting if not answer.is_cancelled)
        for answer in [*self.prefilling, *self.decoding]:
            if answer.is_cancelled:
                self._leave(answer)

    def _seat(self) -> Iterator[tuple[Continuation, Line]]:
        """Give free slots to those that wait, first come first served."""
        while self.waiting and self.cache.num_free:
            answer = self.waiting[0]
            holder = next(iter(answer.prompt.holders), None)
            if holder is not None and answer.prompt.logits_V is None:
                return  # its prompt is being computed: copy that rather than compute it again
            self.waiting.popleft()
            answer.slot = self.cache.take()
            answer.prompt.holders.append(answer)
            if holder is None:
                answer.prompt.ranked, answer.prompt.logits_V = [None], None
                self.prefilling.append(answer)
            else:
                answer.length = len(answer.prompt.ids)
                self.cache.fork(holder.slot, answer.slot, answer.length)
                yield from self._begin(answer)

    def _prefill(self) -> Iterator[tuple[Continuation, Line]]:
        """Compute a piece or so of the prompts, in order, so that those being continued need not wait for long."""
        budget = PIECE_TOKENS
        while self.prefilling and budget > 0:
            answer = self.prefilling[0]
            budget -= min(PIECE_TOKENS, len(answer.prompt.ids) - answer.length)
            try:
                self._compute_piece(answer)
            except Exception as error:  # whatever a prompt does to the model must not end the others
                yield answer, self._fail(answer, error)
                continue
            if answer.length == len(answer.prompt.ids):
                self.prefilling.popleft()
                yield from self._begin(answer)

    def _compute_piece(self, answer: Continuation) -> None:
        prompt, start = answer.prompt, answer.length
        ids = prompt.ids[start : start + PIECE_TOKENS]
        end = start + len(ids)
        positions = torch.arange(start, end)
        hidden_BTD = self.model(
            self._tensor([ids]), positions[None].to(self.device), self.cache.prefill(answer.slot, start, len(ids))
        )
        targets = prompt.ids[start + 1 : end + 1]
        if prompt.is_scored and targets:
            logits_TV = self.model.logits(hidden_BTD[:, : len(targets)])[0].float()
            prompt.ranked += sampling.top_logprobs(logits_TV, self._tensor(targets), answer.params.logprobs or 0)
        if end == len(prompt.ids):
            prompt.logits_V = self.model.logits(hidden_BTD[:, -1:])[0, 0].float()
        answer.length = end

    def _begin(self, answer: Continuation) -> Iterator[tuple[Continuation, Line]]:
        """The prompt is computed: show it where that is wanted, and choose the first token."""
        self.decoding.append(answer)
        if answer.params.echo:
            yield from ((answer, line) for line in answer.echoed())
        if answer.max_tokens == 0:
            self._leave(answer)
            yield from ((answer, line) for line in answer.end("length"))
        else:
            assert answer.prompt.logits_V is not None
            yield from self._choose([answer], answer.prompt.logits_V[None])

    def _decode(self, answers: list[Continuation]) -> list[tuple[Continuation, Line]]:
        """One token for each."""
        if not answers:
            return []
        try:
            logits_BV = self._next_logits(answers)
        except Exception as error:  # one row's fault must not end the others: find it by computing them one by one
            if len(answers) == 1:
                return [(answers[0], self._fail(answers[0], error))]
            return [line for answer in answers for line in self._decode([answer])]
        for answer in answers:
            answer.length += 1
        return list(self._choose(answers, logits_BV))

    def _next_logits(self, answers: list[Continuation]) -> Tensor:
        padding = [0] * (self._min_rows - len(answers))
        ids = [answer.tokens[-1] for answer in answers] + padding
        lengths = [answer.length for answer in answers]
        attend = self.cache.decode([answer.slot for answer in answers], lengths)
        hidden_BTD = self.model(self._tensor(ids)[:, None], self._tensor(lengths + padding)[:, None], attend)
        logits: Tensor = self.model.logits(hidden_BTD)[: len(answers), 0].float()
        return logits

    def _choose(self, answers: list[Continuation], logits_BV: Tensor) -> Iterator[tuple[Continuation, Line]]:
        """A token for each row, and what it shows."""
        best_B = logits_BV.argmax(-1).tolist()
        sound_B = logits_BV.isfinite().all(-1).tolist()
        for answer, logits_V, best, is_sound in zip(answers, logits_BV, best_B, sound_B, strict=True):
            try:
                if not is_sound:
                    raise sampling.not_finite()
                token = answer.sampler.choose(logits_V, best)
                lines = answer.take(token, sampling.ranked(answer.params, logits_V, token))
            except Exception as error:  # as above: only this answer fails
                yield answer, self._fail(answer, error)
                continue
            if lines and lines[-1].kind == "done":
                self._leave(answer)
            yield from ((answer, line) for line in lines)

    def _fail(self, answer: Continuation, error: Exception) -> Error:
        self._leave(answer)
        return failure(error)

    def _leave(self, answer: Continuation) -> None:
        """Free the slot at once."""
        begun = 1
        if answer in self.prefilling:
            self.prefilling.remove(answer)
            begun = PIECE_TOKENS
        else:
            self.decoding.remove(answer)
        answer.prompt.holders.remove(answer)
        self.cache.release(answer.slot, answer.length + begun)

    @property
    def device(self) -> torch.device:
        return self.cache.keys_LSGTK.device

    def _tensor(self, ids: Sequence[object]) -> Tensor:
        return torch.tensor(ids, device=self.device)
