"""Objectives that compare answers or models, on tiny models: they learn, and nothing but the maths decides what."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.adapters.peft_config import AdapterBase
from core.data.batches import RowBatch, validation_batches
from core.data.examples import TokenExample, TokenSequence
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.events import Evaluated, Resumed, Step
from core.models.attention import packed_attention
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import load_model, save_weights
from core.objectives import OBJECTIVES
from core.training import loop
from core.training.stats import Forward, judged, stats_of, survey
from tests.unit.core.training.conftest import LENGTH, VOCAB, Attempt, Lab

SPECS: dict[str, dict[str, Any]] = {
    "dpo": {"kind": "dpo", "beta": 0.5},
    "dpo by token": {"kind": "dpo", "beta": 2.0, "normalisation": "length", "label_smoothing": 0.1},
    "dpo without reference": {"kind": "dpo", "beta": 0.5, "reference": "none"},
    "ipo": {"kind": "dpo", "variant": "ipo", "beta": 0.1},
    "orpo": {"kind": "orpo", "odds_ratio_weight": 1.0},
    "simpo": {"kind": "simpo"},
    "kto": {"kind": "kto", "beta": 0.5},
    "reward": {"kind": "reward", "margin": 0.5, "centre": 0.01},
    "distillation": {"kind": "distillation", "teacher": "t", "alpha": 0.9, "temperature": 2.0},
    "reverse distillation": {"kind": "distillation", "teacher": "t", "alpha": 1.0, "divergence": "reverse"},
}
every_objective = pytest.mark.parametrize("name", SPECS)
Generator = np.random.Generator


def answer(generator: Generator, prompt: list[int], *, up: bool) -> TokenSequence:
    """Letters that go up or down from the prompt's last one."""
    step, size = 3 if up else -3, int(generator.integers(2, 6))
    ids = [97 + (prompt[-1] - 97 + step * at) % 26 for at in range(1, size + 1)]
    return TokenSequence(prompt + ids, [0.0] * len(prompt) + [1.0] * size)


def prompt_of(generator: Generator) -> list[int]:
    return [int(id) for id in generator.integers(97, 122, int(generator.integers(1, 4)))]


def data(path: Path, kind: str, count: int, *, seed: int) -> TokenDataset:
    """What goes up is good."""
    generator = np.random.default_rng(seed)

    def example() -> TokenExample:
        prompt = prompt_of(generator)
        if kind == "kto":
            is_good = bool(generator.integers(2))
            return TokenExample((answer(generator, prompt, up=is_good),), labels=(float(is_good),))
        chosen, rejected = answer(generator, prompt, up=True), answer(generator, prompt, up=False)
        return TokenExample((chosen,) if kind == "distillation" else (chosen, rejected))

    return write_token_dataset(path, (example() for _ in range(count)), vocab_size=VOCAB, divisible=False)


def model(path: Path, *, seed: int, width: int = 16, sure: float = 1.0) -> Path:
    """A directory with a model that nobody trained; the surer, the more its predictions differ from each other."""
    dims = Dimensions(hidden_size=width, num_layers=2, num_heads=2, context_length=LENGTH)
    config, tokenizer = ModelConfig.from_dimensions("llama", dims, vocab_size=VOCAB), Tokenizer.bytes()
    made = Transformer(config)
    made.initialise(seed)
    with torch.no_grad():
        made.lm_head.weight *= sure
    path.mkdir()
    save_weights(made, path)
    stops = sorted(tokenizer.stop_ids)
    write_model_config(path, config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops)
    tokenizer.save(path)
    return path


class PreferenceLab(Lab):
    """One objective; the reference is another model than the start, so that the first step already compares."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self.objective = SPECS[name]
        kind = self.objective["kind"]
        self.train, self.held_out = data(path / "a", kind, 48, seed=0), data(path / "b", kind, 16, seed=1)
        start, other = model(path / "start", seed=1, sure=2.0), model(path / "other", seed=2, width=24, sure=3.0)
        self.inputs = {"model": start, "reference": other}
        if not OBJECTIVES[kind].model_validate(self.objective).needs_reference and kind != "distillation":
            del self.inputs["reference"]

    def spec(self, **fields: Any) -> Any:
        start = {"init": "pretrained", "from": "start", "dropout": fields.pop("dropout", 0.0)}
        return super().spec(**({"model": start, "objective": self.objective, "budget": {"steps": 4}} | fields))


@pytest.fixture
def prefer(tmp_path: Path) -> Any:
    """A lab for an objective."""
    return lambda name: PreferenceLab(tmp_path, name)


def last(attempt: Attempt) -> dict[str, float]:
    return dict(attempt.of(Evaluated)[-1].metrics)


@every_objective
def test_it_learns_what_is_better(prefer: Any, name: str) -> None:
    lab = prefer(name)
    lab.inputs |= {"reference": lab.inputs["model"]} if name not in ("distillation", "reverse distillation") else {}
    attempt = lab.run(
        lab.spec(
            budget={"steps": 40}, evaluation={"every": 1, "samples": 0}, checkpoints={"every": 40, "keep_best": False}
        )
    )
    before, after = attempt.of(Evaluated)[0].metrics, last(attempt)
    assert set(after) == {f"validation_{metric}" for metric in OBJECTIVES[lab.objective["kind"]].metrics}
    assert after["validation_loss"] < before["validation_loss"]
    if lab.objective["kind"] == "distillation":
        assert after["validation_divergence"] < 0.8 * before["validation_divergence"]
    else:
        assert after["validation_reward_accuracy"] > 0.85
        assert after["validation_reward_margin"] > 0


@every_objective
def test_stopped_and_resumed_it_ends_with_the_same_bits(prefer: Any, name: str) -> None:
    """Dropout draws, the last batch of an epoch is short, micro-batches are of four and two rows."""
    lab = prefer(name)
    spec = lab.spec(dropout=0.2, budget={"epochs": 1.5}, precision="bf16")
    whole = lab.run(spec)

    def at(step: int) -> Any:
        return lambda event: isinstance(event, Step) and event.step == step

    stopped = lab.run(spec, stop_when=at(1))
    resumed = lab.run(spec, after=stopped)
    assert resumed.of(Resumed) == [Resumed(step=1, exactness="exact")]
    assert whole.finished.step > 2
    assert resumed.weights == whole.weights
    assert last(resumed) == last(whole)


def first_step(attempt: Attempt) -> tuple[Step, dict[str, Tensor]]:
    from safetensors.torch import load_file

    return attempt.steps[0], load_file(attempt.path / (attempt.finished.path or "") / "model" / "model.safetensors")


@every_objective
def test_the_micro_batch_changes_nothing(prefer: Any, name: str) -> None:
    """Loss and every metric of the step and of the evaluation within 1e-5, the weights after it within 1e-6."""
    lab = prefer(name)
    spec = lab.spec(budget={"steps": 1}, evaluation={"every": 1, "samples": 0}, optimizer=SGD_LIKE)
    whole, weights = first_step(lab.run(spec, micro_batch=6))
    for rows in (1, 4):
        attempt = lab.run(spec, micro_batch=rows)
        step, other = first_step(attempt)
        assert step.loss == pytest.approx(whole.loss, rel=1e-5)
        assert step.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)
        for key, tensor in weights.items():
            torch.testing.assert_close(other[key], tensor, rtol=0, atol=1e-6)
        assert last(attempt) == pytest.approx(last(lab.run(spec, micro_batch=6)), rel=1e-5, abs=1e-6)


SGD_LIKE = {"learning_rate": 1e-3, "eps": 1.0}
"""AdamW whose update is the gradient, nearly: a tiny difference stays tiny"""


@pytest.fixture
def forward(prefer: Any) -> Any:
    """The passes of an objective's model and reference, and its held-out data, several examples a row or one."""

    def opened(name: str, *, dropout: float = 0.0) -> tuple[Any, Forward, Callable[[str], list[RowBatch]]]:
        lab = prefer(name)
        objective = lab.spec().objective
        reference = lab.inputs.get("reference")
        passes = Forward(
            model=load_model(lab.inputs["model"], dropout=dropout, head=objective.head).train(),
            reference=load_model(reference).eval().requires_grad_(False) if reference else None,
            precision="fp32",
            attention="math",
        )

        def batches(packing: str) -> list[RowBatch]:
            settings: dict[str, Any] = {"length": LENGTH, "sequences": 100, "predicts": objective.predicts}
            return list(validation_batches(lab.held_out, packing=packing, **settings))

        return objective, passes, batches

    return opened


def summed(objective: Any, passes: Forward, batch: RowBatch, micro_batch: int = 3) -> tuple[float, dict[str, Tensor]]:
    """Loss over the batch, and its gradient, as the loop computes them."""
    passes.model.zero_grad()
    run: Any = SimpleNamespace(
        spec=SimpleNamespace(objective=objective), forward=passes, plan=SimpleNamespace(compiled=False, device="cpu")
    )
    total = 0.0
    for loss in loop.losses(run, batch, micro_batch):
        loss.sum.backward()  # type: ignore[no-untyped-call]
        total += float(loss.sum.detach())
    return total, {key: p.grad.clone() for key, p in passes.model.named_parameters() if p.grad is not None}


def logits(model: Transformer, ids: list[int]) -> Tensor:
    """[T, V] of one sequence that stands alone."""
    ids_BT = torch.tensor([ids])
    attend = packed_attention(torch.ones_like(ids_BT), kind="math")
    return model.logits(model(ids_BT, torch.arange(len(ids))[None], attend))[0]


def logp(model: Transformer, sequence: TokenSequence) -> Tensor:
    """Summed log-probability of what is learned."""
    logp_TV = logits(model, sequence.ids[:-1]).log_softmax(-1)
    picked_T = logp_TV[torch.arange(len(sequence.ids) - 1), torch.tensor(sequence.ids[1:])]
    return (picked_T * torch.tensor(sequence.weights[1:])).sum()


def score(model: Transformer, sequence: TokenSequence) -> Tensor:
    """Of the whole text, at its last token."""
    ids_BT = torch.tensor([sequence.ids])
    attend = packed_attention(torch.ones_like(ids_BT), kind="math")
    hidden_BTD = model(ids_BT, torch.arange(len(sequence.ids))[None], attend)
    return model.head(hidden_BTD[0, -1])[0]


def plain_loss(name: str, passes: Forward, examples: list[TokenExample]) -> Tensor:
    """The papers' formulas, one example after the other, every logit in memory."""
    total = torch.zeros(())
    for example in examples:
        first = example.sequences[0]
        if name == "reward":
            won, lost = (score(passes.model, sequence) for sequence in example.sequences)
            total = total - torch.log(torch.sigmoid(won - lost - 0.5)) + 0.01 * (won + lost) ** 2
            continue
        size, p = sum(first.weights), logp(passes.model, first)
        q = logp(passes.reference, first) if passes.reference else torch.zeros(())
        if "distillation" in name:
            total = total + distilled(SPECS[name], passes, first)
            continue
        if name == "kto":
            z = (p - q - far_away(passes, examples)) * (1 if example.labels[0] else -1)
            total = total + 1 - torch.sigmoid(0.5 * z)
            continue
        second = example.sequences[1]
        other_size, other = sum(second.weights), logp(passes.model, second)
        other_q = logp(passes.reference, second) if passes.reference else torch.zeros(())
        if name.startswith("dpo") or name == "ipo":
            by_token = "by token" in name
            gain = (p - q) / (size if by_token else 1) - (other - other_q) / (other_size if by_token else 1)
            beta = SPECS[name]["beta"]
            if name == "ipo":
                total = total + (gain - 1 / (2 * beta)) ** 2
            else:
                s = SPECS[name].get("label_smoothing", 0.0)
                right = torch.sigmoid(beta * gain)
                total = total - (1 - s) * torch.log(right) - s * torch.log(1 - right)
        elif name == "simpo":
            total = total - torch.log(torch.sigmoid(2 * p / size - 2 * other / other_size - 1))
        else:
            good, bad = (p / size).exp(), (other / other_size).exp()
            ratio = (good / (1 - good)) / (bad / (1 - bad))
            total = total - torch.log(good) - torch.log(torch.sigmoid(torch.log(ratio)))
    return total


def far_away(passes: Forward, examples: list[TokenExample]) -> Tensor:
    """z_0: each prompt with the next example's answer."""
    gains = []
    for one, following in zip(examples, examples[1:] + examples[:1], strict=True):
        prompt = [id for id, weight in zip(one.sequences[0].ids, one.sequences[0].weights, strict=True) if not weight]
        found = following.sequences[0]
        tail = [id for id, weight in zip(found.ids, found.weights, strict=True) if weight]
        sequence = TokenSequence(prompt + tail, [0.0] * len(prompt) + [1.0] * len(tail))
        gains.append((logp(passes.model, sequence) - logp(passes.reference, sequence)).detach())
    return torch.stack(gains).mean().clamp(min=0)


def distilled(spec: dict[str, Any], passes: Forward, sequence: TokenSequence) -> Tensor:
    tau, alpha = spec.get("temperature", 1.0), spec["alpha"]
    model_TV, teacher_TV = (logits(m, sequence.ids[:-1]) / tau for m in (passes.model, passes.reference))
    p_TV, q_TV = model_TV.softmax(-1), teacher_TV.softmax(-1)
    first_TV, second_TV = (p_TV, q_TV) if spec.get("divergence") == "reverse" else (q_TV, p_TV)
    apart_T = (first_TV * (first_TV.log() - second_TV.log())).sum(-1)
    apart = (apart_T * torch.tensor(sequence.weights[1:])).sum()
    return alpha * tau**2 * apart - (1 - alpha) * logp(passes.model, sequence)


def in_order(batch: RowBatch, held_out: list[TokenExample]) -> list[TokenExample]:
    return [held_out[number] for number in batch.documents_BE.flatten().tolist() if number >= 0]


@every_objective
@pytest.mark.parametrize("packing", ["documents", "none"])
def test_packed_in_micro_batches_it_is_the_papers_formula(
    forward: Any, tmp_path: Path, name: str, packing: str
) -> None:
    objective, passes, batches = forward(name)
    (batch,) = batches(packing)
    held_out = TokenDataset.open(tmp_path / "b")
    examples = in_order(batch, [held_out[i] for i in range(len(held_out))])
    assert len(examples) == len(held_out)
    loss, gradient = summed(objective, passes, batch)
    passes.model.zero_grad()
    plain = plain_loss(name, passes, examples)
    plain.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    for key, parameter in passes.model.named_parameters():
        assert parameter.grad is not None
        assert float((gradient[key] - parameter.grad).norm()) < 1e-5 * float(parameter.grad.norm()), key


def test_the_reference_does_not_drop_anything(forward: Any) -> None:
    objective, passes, batches = forward("dpo", dropout=0.5)
    (batch,) = batches("documents")
    first, second = (stats_of(objective, passes, batch) for _ in range(2))
    assert torch.equal(first.reference_chosen_E, second.reference_chosen_E)
    assert not torch.equal(first.chosen_E, second.chosen_E)
    assert not any(parameter.requires_grad for parameter in passes.reference.parameters())


def test_the_divergence_of_judged_answers_does_not_depend_on_the_micro_batch(forward: Any) -> None:
    objective, passes, batches = forward("kto", dropout=0.3)
    passes.model.eval()
    (batch,) = batches("none")
    whole = survey(objective, passes, batch, 100)
    assert float(whole) > 0
    assert not whole.requires_grad
    for rows in (1, 3):
        torch.testing.assert_close(survey(objective, passes, batch, rows), whole)


def test_a_survey_leaves_the_random_numbers_alone(forward: Any) -> None:
    objective, passes, batches = forward("kto", dropout=0.3)
    (batch,) = batches("none")
    state = torch.get_rng_state()
    survey(objective, passes, batch, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_prompt_meets_the_next_answer(tmp_path: Path) -> None:
    """Of different lengths, some packed; what does not fit into a row is cut off."""
    examples = [
        TokenExample((TokenSequence([1, 2, 3], [0, 0, 1]),), (1.0,)),
        TokenExample((TokenSequence([4, 5, 6, 7], [0, 1, 1, 1]),), (0.0,)),
        TokenExample((TokenSequence([*range(10, 19), 20], [0] * 9 + [1]),), (1.0,)),
    ]
    dataset = write_token_dataset(tmp_path / "d", examples, vocab_size=30, divisible=False)
    (batch,) = validation_batches(dataset, length=9, packing="documents", sequences=9)
    order = [examples[number].sequences[0] for number in batch.documents_BE.flatten().tolist() if number >= 0]
    mixed = judged.mismatched(batch)
    for row, (one, following) in enumerate(zip(order, order[1:] + order[:1], strict=True)):
        prompt = [id for id, weight in zip(one.ids, one.weights, strict=True) if not weight]
        tail = [id for id, weight in zip(following.ids, following.weights, strict=True) if weight]
        ids = (prompt + tail)[:10]
        lane = mixed.lanes[0].rows(slice(row, row + 1))
        assert lane.ids_BT[0].tolist() == ids[:-1]
        assert lane.targets_BT[0].tolist() == ids[1:]
        assert lane.weights_BT[0].tolist() == [0.0] * (len(prompt) - 1) + [1.0] * (len(ids) - len(prompt))


def test_a_single_judged_answer_has_no_other_to_be_compared_with(forward: Any) -> None:
    objective, passes, batches = forward("kto")
    (batch,) = batches("none")
    assert float(survey(objective, passes, batch.rows(slice(0, 1)), 4)) == 0.0


LORA = {"kind": "lora", "rank": 2, "dropout": 0.2}


@pytest.mark.parametrize("name", ["dpo", "kto"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_beside_an_adapter_the_reference_is_the_base_without_it(prefer: Any, name: str, precision: str) -> None:
    """No second model in memory, and the same bits as with one; stopped and resumed, too."""
    lab = prefer(name)
    spec = lab.spec(adapter=LORA, dropout=0.1, precision=precision)
    lab.inputs = {"model": lab.inputs["model"], "base": AdapterBase(model="start", manifest_sha256="0" * 64)}
    alone = lab.run(spec)
    stopped = lab.run(spec, stop_when=lambda event: isinstance(event, Step) and event.step == 2)
    assert lab.run(spec, after=stopped).weights == alone.weights
    lab.inputs["reference"] = lab.inputs["model"]
    beside = lab.run(spec)
    assert [(step.loss, step.metrics) for step in alone.steps] == [(step.loss, step.metrics) for step in beside.steps]
    assert alone.weights == beside.weights
    if name == "dpo":
        assert alone.steps[-1].metrics["reward_margin"] != 0
