"""The engine of encoder-decoders: answers to sources, greedy, drawn or found with beams. The answers of a request are
one batch that goes on by one token a step; several requests take turns.

B rows, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, groupby

import torch
from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.generation import sampling
from core.generation.beam_search import BeamSearch
from core.generation.continuation import Continuation, Line, failure
from core.generation.decoder_rows import DecoderRows
from core.models.transformer import Transformer

Lines = list[tuple[Continuation, Line]]


class EncoderDecoderEngine:
    """One model, and the batches of answers it writes."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, num_slots: int) -> None:
        self.model, self.tokenizer, self.num_slots = model, tokenizer, num_slots
        self.waiting: deque[list[Continuation]] = deque()
        self.running: list[Drawn | Searched] = []

    def submit(self, answers: Sequence[Continuation]) -> None:
        """Add the answers of a request to the queue; more than there are slots for become several batches."""
        of_prompts = _by_prompt(answers)
        size = max(1, self.num_slots // _num_rows(of_prompts[0]))
        for first in range(0, len(of_prompts), size):
            self.waiting.append(list(chain.from_iterable(of_prompts[first : first + size])))

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self.waiting))

    @property
    def num_used(self) -> int:
        return sum(batch.num_rows for batch in self.running)

    @property
    def num_free(self) -> int:
        return max(0, self.num_slots - self.num_used)

    @property
    def has_work(self) -> bool:
        waits = self._can_begin or any(answer.is_cancelled for batch in self.waiting for answer in batch)
        return waits or any(batch.is_ready for batch in self.running)

    @property
    def _can_begin(self) -> bool:
        return bool(self.waiting) and (not self.running or _num_rows(self.waiting[0]) <= self.num_free)

    @torch.inference_mode()
    def step(self) -> Lines:
        """Seat a batch where there is room, then go on by one token in each. Returns what is new, in order."""
        lines: Lines = []
        self.waiting = deque(found for batch in self.waiting if (found := _wanted(batch)))
        if self._can_begin:
            lines += self._begin(self.waiting.popleft())
        for batch in list(self.running):
            if batch.is_ready:
                lines += self._go_on(batch)
        return lines

    def _begin(self, answers: list[Continuation]) -> Lines:
        kind = Searched if answers[0].params.num_beams > 1 else Drawn
        try:
            self.running.append(kind(self.model, self.tokenizer, answers))
        except Exception as error:  # whatever a source does to the model must not end the others
            return [(answer, failure(error)) for answer in answers]
        return []

    def _go_on(self, batch: "Drawn | Searched") -> Lines:
        try:
            lines = list(batch.step())
        except Exception as error:  # as above
            lines = [(answer, failure(error)) for answer in batch.answers]
            batch.answers = []
        if not batch.answers:
            self.running.remove(batch)
        return lines


class Drawn:
    """A row for each answer, and a token for each row a step."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, answers: list[Continuation]) -> None:
        self.answers = answers
        self._pad = tokenizer.pad
        of_prompts = _by_prompt(answers)
        self._rows = DecoderRows(model, [of_one[0].prompt.ids for of_one in of_prompts], start=tokenizer.pad)
        self._rows.select([i for i, of_one in enumerate(of_prompts) for _ in of_one])

    @property
    def num_rows(self) -> int:
        return len(self.answers)

    @property
    def is_ready(self) -> bool:
        """Its reader follows, or is gone."""
        return any(answer.is_cancelled or not answer.is_paused for answer in self.answers)

    def step(self) -> Iterator[tuple[Continuation, Line]]:
        self._keep([i for i, answer in enumerate(self.answers) if not answer.is_cancelled])
        logits_BV = _without(self._pad, self._rows.logits_BV)
        best_B = logits_BV.argmax(-1).tolist()
        kept = []
        for i, answer in enumerate(self.answers):
            token = answer.sampler.choose(logits_BV[i], best_B[i])
            lines = answer.take(token, sampling.ranked(answer.params, logits_BV[i], token))
            if not lines or lines[-1].kind != "done":
                kept.append(i)
            yield from ((answer, line) for line in lines)
        self._keep(kept)
        if self.answers:
            self._rows.push([answer.tokens[-1] for answer in self.answers])

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self.answers):
            self.answers = [self.answers[i] for i in rows]
            if rows:
                self._rows.select(rows)


class Searched:
    """Rows for the beams of each source. Nothing is known of the answers before the search is over."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, answers: list[Continuation]) -> None:
        self.answers = answers
        self._pad = tokenizer.pad
        self._of_prompt = _by_prompt(answers)
        params = answers[0].params
        self._searches = [
            BeamSearch(params.num_beams, params.length_penalty, of_one[0].max_tokens, tokenizer.stop_ids)
            for of_one in self._of_prompt
        ]
        self._rows = DecoderRows(model, [of_one[0].prompt.ids for of_one in self._of_prompt], start=tokenizer.pad)

    @property
    def num_rows(self) -> int:
        return sum(search.num_beams for search in self._searches)

    @property
    def is_ready(self) -> bool:
        return any(answer.is_cancelled or not answer.is_paused for answer in self.answers)

    def step(self) -> Iterator[tuple[Continuation, Line]]:
        if any(answer.is_cancelled for answer in self.answers):  # all of a request are
            self.answers = []
            return
        logp_BV = _without(self._pad, self._rows.logits_BV.log_softmax(-1))
        rows: list[int] = []
        first = 0
        going_on = []
        for search, answers in zip(self._searches, self._of_prompt, strict=True):
            count = len(search.beams)
            parents = search.advance(logp_BV[first : first + count])
            if search.is_over:
                yield from _written(search, answers)
            else:
                rows += [first + parent for parent in parents]
                going_on.append((search, answers))
            first += count
        self._searches = [search for search, _ in going_on]
        self._of_prompt = [answers for _, answers in going_on]
        self.answers = [answer for answers in self._of_prompt for answer in answers]
        if self.answers:
            self._rows.select(rows)
            self._rows.push([beam[-1] for search in self._searches for beam in search.beams])


def _written(search: BeamSearch, answers: Sequence[Continuation]) -> Iterator[tuple[Continuation, Line]]:
    """The best finished answers as lines, the best first."""
    for answer, found in zip(answers, search.finished, strict=False):
        for token in found.tokens:
            lines = answer.take(token, None)
            yield from ((answer, line) for line in lines)
            if lines and lines[-1].kind == "done":
                break


def _without(pad: int, logits_BV: Tensor) -> Tensor:
    """Padding is never said; some models (Marian's) are not trained to leave it out.

    Raises:
        CoreError: something is not finite (code `nonfinite_logits`).
    """
    if not logits_BV.isfinite().all():
        raise sampling.not_finite()
    logits_BV = logits_BV.clone()
    logits_BV[:, pad] = float("-inf")
    return logits_BV


def _wanted(answers: list[Continuation]) -> list[Continuation]:
    return [answer for answer in answers if not answer.is_cancelled]


def _by_prompt(answers: Sequence[Continuation]) -> list[list[Continuation]]:
    """The answers to a prompt stand together."""
    return [list(group) for _, group in groupby(answers, key=lambda answer: id(answer.prompt))]


def _num_rows(answers: Sequence[Continuation]) -> int:
    beams = answers[0].params.num_beams
    return len(answers) if beams == 1 else beams * len(_by_prompt(answers))
