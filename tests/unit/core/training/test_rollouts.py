"""A model that learns from its own answers: it learns what is rewarded, and resumes to the bit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from core.adapters.attach import attach_to
from core.adapters.spec import LoRA
from core.data.batches import Batches, validation_batches
from core.data.examples import TokenExample, TokenSequence
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.errors import InvalidRequest
from core.events import Entered, Evaluated, Event, Step
from core.graders.sandbox import Sandbox
from core.models.attention import packed_attention
from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer
from core.objectives.grpo import GRPO
from core.training import rollouts, run
from core.training.rollouts import RolloutBatches, Writer, policy_of, prompts_of, validation_rollouts
from core.training.stats import Forward, stats_of
from core.training.stats.answers import FACTS
from tests.unit.core.training.conftest import LENGTH, VOCAB, Lab
from tests.unit.core.training.test_preferences import model
from tests.unit.core.training.test_resume import at_step, figures

HAS_A: dict[str, Any] = {
    "type": "string_check",
    "name": "has an a",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.letter}}",
}
SHARE: dict[str, Any] = {
    "type": "python",
    "name": "share",
    "source": "def grade(sample, item):\n    text = sample['output_text']\n"
    "    return sum('a' <= c <= 'z' for c in text) / max(len(text), 1)",
}


def prompts(path: Path, count: int, *, seed: int = 0) -> TokenDataset:
    """Prompts of different lengths, each with the place where the answer begins."""
    examples = (
        TokenExample(
            (TokenSequence([97 + (seed + n) % 26] * (1 + n % 4) + [0], [0.0] * (1 + n % 4) + [1.0]),),
            item=json.dumps({"letter": "a", "number": n}),
        )
        for n in range(count)
    )
    return write_token_dataset(path, examples, vocab_size=VOCAB, divisible=False)


class GraderLab(Lab):
    def __init__(self, path: Path, **objective: Any) -> None:
        super().__init__(path)
        self.train, self.held_out = prompts(path / "a", 12), prompts(path / "b", 4, seed=7)
        self.objective = {"kind": "grpo", "grader": HAS_A, "beta": 0.0, "copies": 4, "max_tokens": 6} | objective

    def spec(self, **fields: Any) -> Any:
        plain = {"init": "random", "dimensions": {"hidden_size": 16, "num_layers": 2, "num_heads": 2}}
        given = {
            "model": plain | {"tokenizer": "bytes"},
            "objective": self.objective,
            "data": {"train": [{"file": "file-1"}], "validation": {"fraction": 0.1}, "packing": "none"},
            "batch": {"sequences": 3},
        }
        given["model"]["dimensions"]["context_length"] = LENGTH
        return super().spec(**(given | fields))


@pytest.mark.parametrize("grader", [HAS_A, SHARE], ids=["string_check", "python"])
def test_it_learns_what_is_rewarded(tmp_path: Path, grader: dict[str, Any]) -> None:
    lab = GraderLab(tmp_path, grader=grader, copies=16, max_tokens=4, validation_copies=8)
    attempt = lab.run(
        lab.spec(
            batch={"sequences": 6},
            budget={"steps": 30},
            evaluation={"every": 30, "samples": 0},
            checkpoints={"every": 30, "keep_best": False},
            optimizer={"learning_rate": 0.02},
        ),
        micro_batch=96,
    )
    rewards = [step.metrics["reward"] for step in attempt.steps]
    assert sum(rewards[:3]) / 3 < 0.2
    assert sum(rewards[-3:]) / 3 > 0.9
    validated = attempt.of(Evaluated)[-1].metrics
    assert validated["validation_reward"] > 0.9
    assert validated["validation_loss"] == pytest.approx(-validated["validation_reward"], abs=1e-4)


@pytest.mark.parametrize(("precision", "step"), [("fp32", 4), ("bf16", 2)])
def test_stopped_or_killed_it_ends_with_the_same_bits(tmp_path: Path, precision: str, step: int) -> None:
    lab = GraderLab(tmp_path, beta=0.1)
    start = model(tmp_path / "start", seed=1, sure=2.0)
    lab.inputs = {"model": start, "reference": start}
    spec = lab.spec(
        model={"init": "pretrained", "from": "start", "dropout": 0.0}, precision=precision, budget={"epochs": 1.3}
    )
    whole = lab.run(spec)
    assert whole.finished.step == 6
    assert max(step.metrics["reward_deviation"] for step in whole.steps) > 0, "or there was nothing to learn"
    stopped = lab.run(spec, stop_when=at_step(step))
    resumed = lab.run(spec, after=stopped)
    assert resumed.weights == whole.weights
    assert figures(stopped) + figures(resumed, after=step - 1) == figures(whole)
    killed = lab.run(spec, kill_when=at_step(5))
    resumed = lab.run(spec, after=killed)
    assert resumed.weights == whole.weights
    assert figures(resumed) == figures(whole, after=3)


@pytest.mark.parametrize("phase", ["training", "evaluating"])
def test_stopped_while_it_writes_it_writes_the_same_again(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = GraderLab(tmp_path)
    spec = lab.spec(budget={"steps": 5})
    whole = lab.run(spec)
    monkeypatch.setattr(run, "SIGN_OF_LIFE_SECONDS", 0.0)
    taken: list[int] = []

    def in_the_middle(event: Event) -> bool:
        if isinstance(event, Step):
            taken.append(event.step)
        return taken[-1:] == [4] and isinstance(event, Entered) and event.phase == phase

    stopped = lab.run(spec, stop_when=in_the_middle)
    assert (stopped.finished.reason, stopped.finished.step) == ("interrupted", 4)
    resumed = lab.run(spec, after=stopped)
    assert resumed.weights == whole.weights
    assert figures(stopped) + figures(resumed, after=3) == figures(whole)


def grpo(**fields: Any) -> GRPO:
    return GRPO.model_validate({"grader": HAS_A, "copies": 4, "max_tokens": 6, "beta": 0.0} | fields)


def forward_of(seed: int = 1, *, precision: Any = "fp32", deviation: float = 1.0) -> Forward:
    dims = Dimensions(hidden_size=16, num_layers=2, num_heads=2, context_length=LENGTH)
    made = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=VOCAB))
    made.initialise(seed)
    with torch.no_grad():
        made.lm_head.weight *= deviation
    return Forward(model=made, reference=None, precision=precision, attention="math")


def batches(dataset: TokenDataset, *, sequences: int = 3, seed: int = 5) -> Batches:
    return Batches([dataset], [1.0], length=LENGTH, packing="none", sequences=sequences, seed=seed)


def writer_of(sandbox: Sandbox, objective: GRPO, forward: Forward | None = None) -> Writer:
    return Writer(
        objective, forward or forward_of(), Tokenizer.bytes(), sandbox, length=LENGTH, watch=lambda phase: None
    )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return prompts(tmp_path_factory.mktemp("prompts") / "p", 12)


def test_a_batch_of_answers(dataset: TokenDataset, sandbox: Sandbox) -> None:
    forward, asked = forward_of(deviation=3.0), batches(dataset)
    writer = writer_of(sandbox, grpo(), forward)
    found = RolloutBatches(asked, writer).batch(0)
    given = list(prompts_of(asked.batch(0)))
    lane = found.lanes[0]
    assert len(found) == 3 * 4
    stops = Tokenizer.bytes().stop_ids
    facts = {name: found.labels_BEC[:, 0, at] for at, name in enumerate(FACTS)}
    for b in range(12):
        ids, _ = given[b // 4]
        row = [*lane.ids_BT[b, lane.segments_BT[b] > 0].tolist()]
        assert row[: len(ids)] == ids
        learned = lane.targets_BT[b, lane.weights_BT[b] > 0].tolist()
        assert ids + learned[:-1] == row
        assert 1 <= len(learned) <= 6
        assert (learned[-1] in stops) == bool(facts["finished"][b])
        assert facts["finished"][b] or len(learned) == 6
        assert not stops & set(learned[:-1])
        text = Tokenizer.bytes().decode([id for id in learned if id not in stops])
        assert facts["reward"][b] == float("a" in text.casefold())
    assert len({tuple(lane.targets_BT[b].tolist()) for b in range(12)}) > 6, "copies differ"
    assert facts["mean_tokens"].tolist() == pytest.approx([float(lane.weights_BT.sum() / 12)] * 12)


def test_answers_depend_on_weights_and_number_alone(dataset: TokenDataset, sandbox: Sandbox) -> None:
    def lanes(forward: Forward, *, step: int, sequences: int = 3, seed: int = 5) -> torch.Tensor:
        writer = writer_of(sandbox, grpo(), forward)
        made = RolloutBatches(batches(dataset, sequences=sequences, seed=seed), writer)
        made.batch(3)  # what was written before leaves no trace
        lane = made.batch(step).lanes[0]
        return torch.nn.functional.pad(lane.targets_BT, (0, LENGTH - lane.targets_BT.shape[1]))

    first = lanes(forward_of(), step=1)
    assert torch.equal(first, lanes(forward_of(), step=1))
    assert torch.equal(first[8:], lanes(forward_of(), step=5, sequences=1)), "row 5 of the run, with other neighbours"
    assert not torch.equal(first, lanes(forward_of(2), step=1))
    assert not torch.equal(first, lanes(forward_of(), step=1, seed=6))
    assert not torch.equal(first, lanes(forward_of(), step=5)), "the same prompts in the next epoch"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_was_drawn_is_as_likely_as_training_finds_it(
    dataset: TokenDataset, sandbox: Sandbox, temperature: float
) -> None:
    objective, forward = grpo(temperature=temperature), forward_of(deviation=3.0)
    batch = RolloutBatches(batches(dataset), writer_of(sandbox, objective, forward)).batch(0)
    stats = stats_of(objective, forward, batch)
    torch.testing.assert_close(stats.logp_N, stats.drawn_logp_N, atol=1e-5, rtol=0)
    assert torch.equal(stats.tokens_E, torch.bincount(stats.answer_N).float())
    assert float(objective.loss(stats).metrics["clipped"]) == 0


def test_micro_batches_add_up(dataset: TokenDataset, sandbox: Sandbox) -> None:
    objective, forward = grpo(normalisation="batch"), forward_of(deviation=3.0)
    batch = RolloutBatches(batches(dataset), writer_of(sandbox, objective, forward)).batch(0)
    whole = objective.loss(stats_of(objective, forward, batch))
    parts = [objective.loss(stats_of(objective, forward, batch.rows(slice(at, at + 5)))) for at in (0, 5, 10)]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum, atol=1e-5, rtol=0)
    assert sum(float(part.count) for part in parts) == 12


@pytest.mark.parametrize(("advantage", "scale"), [("standardised", 0.5), ("centred", 1.0)])
def test_advantages_are_within_the_group(dataset: TokenDataset, sandbox: Sandbox, advantage: str, scale: float) -> None:
    source = "count = iter(range(99))\ndef grade(sample, item):\n    return next(count) % 4 > 1"
    objective = grpo(advantage=advantage, grader={"type": "python", "name": "x", "source": source})
    writer = writer_of(sandbox, objective)
    labels = RolloutBatches(batches(dataset), writer).batch(0).labels_BEC[:, 0]
    assert labels[:4, 1].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert labels[:4, 0].tolist() == pytest.approx([-0.5 / scale, -0.5 / scale, 0.5 / scale, 0.5 / scale])
    assert labels[:4, 2].tolist() == [0.5] * 4


def test_answers_that_are_equally_good_teach_nothing(dataset: TokenDataset, sandbox: Sandbox) -> None:
    objective = grpo(grader=HAS_A | {"operation": "ne", "reference": "never"})
    writer = writer_of(sandbox, objective)
    labels = RolloutBatches(batches(dataset), writer).batch(0).labels_BEC[:, 0]
    assert labels[:, 0].tolist() == [0.0] * 12
    assert labels[:, 1].tolist() == [1.0] * 12


def test_in_a_validation_the_advantage_is_the_reward(dataset: TokenDataset, sandbox: Sandbox) -> None:
    writer = writer_of(sandbox, grpo(validation_copies=2))

    def rows() -> list[torch.Tensor]:
        given = validation_batches(dataset, length=LENGTH, packing="none", sequences=5)
        return [batch.labels_BEC[:, 0] for batch in validation_rollouts(given, dataset, writer)]

    found = torch.cat(rows())
    assert len(found) == 24
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found, torch.cat(rows())), "the same every time"


def test_a_grader_that_is_broken_ends_the_run(dataset: TokenDataset, sandbox: Sandbox) -> None:
    broken = {"type": "python", "name": "mine", "source": "def grade(sample, item):\n    return item['missing']"}
    writer = writer_of(sandbox, grpo(grader=broken))
    made = RolloutBatches(batches(dataset), writer)
    assert made.batch(0).labels_BEC[:, 0, FACTS.index("ungraded")].tolist() == [1.0] * 12
    made.batch(1)
    with pytest.raises(InvalidRequest) as raised:
        made.batch(2)
    assert (raised.value.code, raised.value.param) == ("grader_failed", "objective.grader")
    assert "'mine' failed 32 times in a row" in raised.value.message
    assert "KeyError: 'missing'" in raised.value.message


def test_answers_that_a_grader_cannot_read_get_nothing(
    dataset: TokenDataset, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "MAX_FAILURES", 2)
    writer = writer_of(sandbox, grpo(grader=HAS_A | {"input": "{{sample.output_json.x}}"}))
    labels = RolloutBatches(batches(dataset), writer).batch(0).labels_BEC[:, 0]
    assert labels[:, FACTS.index("ungraded")].tolist() == [1.0] * 12


def test_the_policy_is_the_model_in_another_dtype() -> None:
    forward = forward_of()
    policy = policy_of(forward.model, dtype=torch.bfloat16)
    taken = dict(policy.named_parameters())
    assert all(parameter.dtype == torch.bfloat16 and not parameter.requires_grad for parameter in taken.values())
    embedded = forward.model.model.embed_tokens.weight
    assert torch.equal(taken["model.embed_tokens.weight"], embedded.detach().bfloat16())
    assert not policy.training
    with torch.no_grad():
        embedded.zero_()
    assert taken["model.embed_tokens.weight"].abs().sum() > 0, "it is a copy"


def test_adapters_are_merged_into_the_policy() -> None:
    forward = forward_of()
    attached = attach_to(forward.model, LoRA(rank=2), dtype=torch.float32)
    with torch.no_grad():
        for layer in attached.layers.values():
            layer.lora_B.normal_(generator=torch.Generator().manual_seed(1))
    ids_BT = torch.arange(97, 107)[None]
    inputs = (ids_BT, torch.arange(10)[None], packed_attention(torch.ones_like(ids_BT), kind="math"))
    policy = policy_of(forward.model, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(policy(*inputs), forward.model(*inputs), atol=1e-4, rtol=0)


def test_what_a_spec_of_it_may_not_say(tmp_path: Path) -> None:
    lab = GraderLab(tmp_path)
    with pytest.raises(ValidationError, match="give `budget` steps, epochs or seconds"):
        lab.spec(budget={"tokens": 1000})
    config = ModelConfig.from_dimensions("llama", Dimensions(hidden_size=16, num_layers=1, num_heads=2), vocab_size=327)
    packed = lab.spec(data={"train": [{"file": "f"}], "packing": "documents", "sequence_length": 16}, evaluation={})
    assert packed.resolved(config, format="graded").data.packing == "none", "a row of the batch is a prompt"
