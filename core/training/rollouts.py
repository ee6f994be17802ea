"""Batches of answers in the place of batches of prompts: the model writes, a grader judges, and what is better than the
others of its group is marked so.

An answer is a pure function of the weights and of (seed, number of the prompt in the run, copy), and so is its grade,
as far as the grader's code is one. So a run that resumes writes the same answers again, and nothing of them is saved.

Legend: B rows, one for each answer, T positions, C facts of an answer, V vocabulary.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor

from core.adapters.low_rank import FrozenLinear
from core.data.batches import Batches, Lane, RowBatch
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.errors import CoreError, Diverged, InvalidRequest
from core.events import Phase
from core.generation.continuation import Continuation, Line, Prompt
from core.generation.engine import Engine
from core.generation.kv_cache import KVCache
from core.generation.packed_linear import pack_linears
from core.generation.sampling import Ranked, Sampler
from core.generation.text import TextStream
from core.generation_request import Done
from core.graders.grade import Grade, GradingError, Item, Sample
from core.graders.sandbox import Sandbox
from core.models.transformer import Transformer
from core.objectives.grpo import GRPO
from core.sampling_params import SamplingParams
from core.training.memory import ROLLOUT_SLOTS
from core.training.stats.answers import FACTS
from core.training.stats.forward import Forward

MAX_FAILURES = 32
"""of the grader in a row, after which the run ends: it is broken, not the answers"""
ANSWERS_FAULT = ("sample_parse_error", "invalid_variable_error")
"""errors that say something about the answer; keys that rows lack are found before a run begins"""
SAME = 1e-6
"""standard deviation of rewards below which a group's answers are equally good"""


class Stopped(Exception):
    """Somebody wants the run to save and end; what was being written is written again when it resumes."""


class RolloutBatches:
    """`Batches`, with what was drawn from the model as it is now."""

    def __init__(self, prompts: Batches, writer: "Writer") -> None:
        self.prompts, self.writer = prompts, writer
        self.length, self.num_rows = prompts.length, prompts.num_rows
        self.items = items_of(prompts.datasets)

    def batch(self, step: int, *, total_rows: int | None = None) -> RowBatch:
        """A group of answers to each prompt of the batch of that step; raises as `Writer.batch`."""
        prompts = self.prompts.batch(step, total_rows=total_rows)
        first, seed = step * self.prompts.sequences, self.prompts.seed
        asked = [
            Asked(ids, self.items[document], seed=f"{seed}/{first + nth}")
            for nth, (ids, document) in enumerate(prompts_of(prompts))
        ]
        return self.writer.batch(asked, copies=self.writer.objective.copies, phase="training")


def validation_rollouts(prompts: Iterator[RowBatch], held_out: TokenDataset, writer: "Writer") -> Iterator[RowBatch]:
    """Answers to the validation prompts, drawn from the same random numbers every time; an advantage is the reward."""
    items = items_of([held_out])
    copies = writer.objective.validation_copies
    for batch in prompts:
        asked = [Asked(ids, items[document], seed=f"validation/{document}") for ids, document in prompts_of(batch)]
        try:
            answers = writer.batch(asked, copies=copies, phase="evaluating")
        except Stopped:  # the loop sees for itself that it should
            return
        yield answers


def items_of(datasets: Sequence[TokenDataset]) -> list[Item]:
    """Of all examples, numbered through the datasets."""
    return [json.loads(item) for dataset in datasets for item in dataset.items()]


@dataclass(frozen=True)
class Asked:
    """A prompt, what the grader knows of it, and what decides the answers' random numbers."""

    ids: list[int]
    item: Item
    seed: str


def prompts_of(batch: RowBatch) -> Iterator[tuple[list[int], int]]:
    """The ids and the number of the prompt in each row."""
    lane = batch.lanes[0]
    for b, document in enumerate(batch.documents_BE[:, 0].tolist()):
        yield lane.ids_BT[b, lane.segments_BT[b] > 0].tolist(), document


class DrawnSampler(Sampler):
    """Remembers how likely each token was that it chose."""

    def __init__(self, params: SamplingParams, *, copy: int) -> None:
        super().__init__(params, copy=copy)
        self.logps: list[float] = []

    def choose(self, logits_V: Tensor, best: int) -> int:
        token = super().choose(logits_V, best)
        self.logps.append(float((logits_V / self.params.temperature).log_softmax(-1)[token]))
        return token


@dataclass(eq=False)
class Answer(Continuation):
    """An answer that nobody reads while it is written."""

    sampler: DrawnSampler
    is_finished: bool = False
    """the model ended it"""

    def take(self, token: int, ranked: Ranked | None) -> list[Line]:
        self.tokens.append(token)
        self.is_finished = token in self.tokenizer.stop_ids
        if self.is_finished or len(self.tokens) >= self.max_tokens:
            return [Done(choice=self.choice, finish_reason="stop" if self.is_finished else "length")]
        return []

    @property
    def output(self) -> Sample:
        written = self.tokens[:-1] if self.is_finished else self.tokens
        return Sample(self.tokenizer.decode(written))


class Writer:
    """Writes and judges answers with the weights as they are at each call."""

    def __init__(
        self,
        objective: GRPO,
        forward: Forward,
        tokenizer: Tokenizer,
        sandbox: Sandbox,
        *,
        length: int,
        watch: Callable[[Phase], None],
    ) -> None:
        """
        Args:
            length: inputs of a row, prompt and answer together.
            watch: called again and again with what the answers are for; raises `Stopped` when the run should end.
        """
        self.objective, self.forward, self.tokenizer, self.length = objective, forward, tokenizer, length
        self.sandbox, self.watch = sandbox, watch
        self.failures = 0
        self._cache: KVCache | None = None

    def batch(self, asked: Sequence[Asked], *, copies: int, phase: Phase) -> RowBatch:
        """A row for each answer, the answers to one prompt one after the other. For training, an advantage is over the
        other answers of the group.

        Raises:
            InvalidRequest: the grader is broken (code `grader_failed`).
            Diverged: the model's output is not finite.
            Stopped: the run should end.
        """
        answers = self._write(asked, copies, phase)
        grades = []
        for i, answer in enumerate(answers):
            self.watch(phase)
            grades.append(self._grade(answer, asked[i // copies].item))
        rewards = [grade.score for grade in grades]
        groups = [rewards[first : first + copies] for first in range(0, len(rewards), copies)]
        deviations = [pstdev(group) for group in groups]
        mean_tokens = fmean(len(answer.tokens) for answer in answers)
        advantages = [self._advantages(group) if phase == "training" else group for group in groups]
        facts = [
            {
                "advantage": advantages[i // copies][i % copies],
                "reward": rewards[i],
                "deviation": deviations[i // copies],
                "mean_tokens": mean_tokens,
                "finished": float(answer.is_finished),
                "ungraded": float(bool(grades[i].errors)),
            }
            for i, answer in enumerate(answers)
        ]
        return rows_of(answers, facts, self.length)

    def _advantages(self, rewards: Sequence[float]) -> list[float]:
        mean, deviation = fmean(rewards), pstdev(rewards)
        if self.objective.advantage == "centred":
            return [reward - mean for reward in rewards]
        return [(reward - mean) / deviation if deviation > SAME else 0.0 for reward in rewards]

    def _grade(self, answer: Answer, item: Item) -> Grade:
        grade = self.objective.grader.grade(answer.output, item, self.sandbox)
        broken = [error for error in grade.errors if error.name not in ANSWERS_FAULT]
        self.failures = self.failures + 1 if broken else 0
        if broken and (self.failures >= MAX_FAILURES or broken[0].name == "python_grader_server_error"):
            raise self._broken(broken[0])
        return grade

    def _broken(self, error: GradingError) -> InvalidRequest:
        return InvalidRequest(
            f"The grader {self.objective.grader.name!r} failed {self.failures} times in a row; the last time: "
            f"{error.details}",
            code="grader_failed",
            param="objective.grader",
            hint="Try it with POST /v1/fine_tuning/alpha/graders/run, and let it give 0 for answers it cannot read.",
        )

    @torch.no_grad()
    def _write(self, asked: Sequence[Asked], copies: int, phase: Phase) -> list[Answer]:
        policy = policy_of(self.forward.model, dtype=self.forward.dtype)
        engine = Engine(policy, self._empty_cache(policy))
        answers = [answer for prompt in asked for answer in self._begin(prompt, copies)]
        engine.submit(answers)
        while engine.has_work:
            self.watch(phase)
            for _, line in engine.step():
                if line.kind == "error":
                    kind = Diverged if line.code == "nonfinite_logits" else CoreError
                    raise kind(f"{line.message} It was writing an answer to learn from.", code=line.code)
        return answers

    def _begin(self, asked: Asked, copies: int) -> list[Answer]:
        digest = hashlib.sha256(asked.seed.encode()).digest()
        params = SamplingParams(
            temperature=self.objective.temperature, seed=int.from_bytes(digest[:8], "little"), max_tokens=None
        )
        prompt, room = Prompt(ids=asked.ids, is_scored=False), self.length + 1 - len(asked.ids)
        return [
            Answer(
                prompt=prompt,
                choice=copy,
                params=params,
                max_tokens=min(self.objective.max_tokens, room),
                tokenizer=self.tokenizer,
                sampler=DrawnSampler(params, copy=copy),
                text=TextStream(self.tokenizer),
            )
            for copy in range(copies)
        ]

    def _empty_cache(self, policy: Transformer) -> KVCache:
        """The one of the last call: what is in it has been wiped."""
        if self._cache is None:
            self._cache = KVCache(
                policy.config,
                num_slots=ROLLOUT_SLOTS,
                context_length=self.length,
                dtype=self.forward.dtype,
                device=self.forward.device,
            )
        return self._cache


def policy_of(model: Transformer, *, dtype: torch.dtype) -> Transformer:
    """The model as it is now, for writing: a copy in `dtype`, adapters merged."""
    with torch.device("meta"):
        policy = Transformer(model.config).requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear):
            _set(policy, f"{name}.weight", module.merged(), dtype)
            if module.bias is not None:
                _set(policy, f"{name}.bias", module.bias, dtype)
    taken = dict(model.named_parameters())
    for name, parameter in policy.named_parameters():
        if parameter.is_meta:
            _set(policy, name, taken[name], dtype)
    policy.tie()
    policy.eval()
    pack_linears(policy)
    return policy


def _set(policy: Transformer, name: str, value: Tensor, dtype: torch.dtype) -> None:
    owner, _, leaf = name.rpartition(".")
    copied = value.detach().to(dtype, copy=True)
    setattr(policy.get_submodule(owner), leaf, torch.nn.Parameter(copied, requires_grad=False))


def rows_of(answers: Sequence[Answer], facts: Sequence[dict[str, float]], length: int) -> RowBatch:
    """One answer a row, behind its prompt; only the answer is learned."""
    longest = max(len(answer.prompt.ids) + len(answer.tokens) - 1 for answer in answers)
    assert longest <= length
    lane = Lane(*(torch.zeros(len(answers), longest, dtype=dtype) for dtype in LANE_DTYPES))
    drawn_BT = torch.zeros(len(answers), longest)
    for b, answer in enumerate(answers):
        ids_t = torch.tensor(answer.prompt.ids + answer.tokens)
        size, begin = len(ids_t) - 1, len(answer.prompt.ids) - 1
        lane.ids_BT[b, :size], lane.targets_BT[b, :size] = ids_t[:-1], ids_t[1:]
        lane.weights_BT[b, begin:size] = 1.0
        lane.positions_BT[b, :size], lane.segments_BT[b, :size] = torch.arange(size), 1
        drawn_BT[b, begin:size] = torch.tensor(answer.sampler.logps)
    labels_BC = torch.tensor([[fact[name] for name in FACTS] for fact in facts])
    numbers_B1 = torch.arange(len(answers))[:, None]
    return RowBatch((lane,), labels_BC[:, None], numbers_B1, drawn_logp_BT=drawn_BT)


LANE_DTYPES = (torch.int64, torch.int64, torch.float32, torch.int64, torch.int64)
"""ids, targets, weights, positions, segments"""
