"""Runs that train an adapter: exact to resume, small on disk, continued, merged, and on bases of fewer bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.adapters.peft_config import AdapterBase
from core.adapters.peft_directory import load_merged
from core.data.examples import TokenExample
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.events import Evaluated, Resumed, Step
from core.models.weights import load_model
from core.run_dir import INPUTS, RunDir
from tests.unit.core.training.conftest import VOCAB, Attempt, Lab

LORA = {"kind": "lora", "rank": 2, "dropout": 0.2}
BASE = AdapterBase(model="pt:lab:base:1a2b3c4d", manifest_sha256="0" * 64)


def backwards(path: Path, count: int, *, seed: int) -> TokenDataset:
    """As the data of the base, but each byte comes before the one that it followed there."""
    generator = np.random.default_rng(seed)
    starts, lengths = generator.integers(97, 122, count), generator.integers(9, 40, count)
    examples = (
        TokenExample.of([97 + (int(start) - 3 * at) % 26 for at in range(length)], [1.0] * int(length))
        for start, length in zip(starts, lengths, strict=True)
    )
    return write_token_dataset(path, examples, vocab_size=VOCAB, divisible=True)


class AdapterLab(Lab):
    """Fine-tuning of a base that has been trained for some steps."""

    def __init__(self, path: Path, base: Path) -> None:
        super().__init__(path)
        self.train, self.held_out = backwards(path / "bt", 16, seed=3), backwards(path / "bv", 3, seed=4)
        self.base = base
        self.adapter: Path | None = None

    def lora(self, **fields: Any) -> Any:
        given = {"adapter": LORA, "model": {"init": "pretrained", "from": BASE.model, "dropout": 0.1}}
        return self.spec(**(given | fields))

    def lay_out(self, *args: Any, **options: Any) -> Path:
        run_dir = RunDir(super().lay_out(*args, **options))
        changed = {"model": self.base, "adapter": self.adapter, "base": BASE}
        run_dir.write(INPUTS, run_dir.inputs().model_copy(update=changed))
        return run_dir.path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("base"))
    return model_of(lab.run(lab.spec(budget={"steps": 40})))


@pytest.fixture
def lab(tmp_path: Path, base: Path) -> AdapterLab:
    return AdapterLab(tmp_path, base)


def model_of(attempt: Attempt) -> Path:
    return attempt.path / (attempt.finished.path or "") / "model"


def at_step(step: int) -> Any:
    return lambda event: isinstance(event, Step) and event.step == step


def figures(attempt: Attempt, *, after: int = 0) -> list[dict[str, Any]]:
    events = [event for event in attempt.events if isinstance(event, Step | Evaluated) and event.step > after]
    return [event.model_dump(exclude={"seconds", "tokens_per_second"}) for event in events]


@pytest.mark.parametrize(
    ("precision", "more", "stops"),
    [
        ("fp32", {}, (5,)),
        ("bf16", {}, (2, 5, 8)),
        ("bf16", {"decomposed": True}, (5,)),
        ("bf16", {"quantization": "int8"}, (5,)),
        ("bf16", {"quantization": "nf4"}, (5,)),
    ],
)
def test_stopped_or_killed_it_ends_with_the_same_bits(
    lab: AdapterLab, precision: str, more: dict[str, Any], stops: tuple[int, ...]
) -> None:
    spec = lab.lora(adapter=LORA | more, precision=precision)
    whole = lab.run(spec)
    for step in stops:
        stopped = lab.run(spec, stop_when=at_step(step))
        resumed = lab.run(spec, after=stopped)
        assert resumed.of(Resumed) == [Resumed(step=step, exactness="exact")]
        assert resumed.weights == whole.weights
        assert figures(stopped) + figures(resumed, after=step - 1) == figures(whole)
    killed = lab.run(spec, kill_when=at_step(stops[-1]))
    assert lab.run(spec, after=killed).weights == whole.weights


def test_a_resume_really_draws_the_adapters_dropout(lab: AdapterLab) -> None:
    with_dropout = lab.lora(model={"init": "pretrained", "from": BASE.model})
    without = lab.lora(model={"init": "pretrained", "from": BASE.model}, adapter=LORA | {"dropout": 0.0})
    assert lab.run(with_dropout).weights != lab.run(without).weights


def test_it_learns_and_leaves_the_base_as_it_was(lab: AdapterLab) -> None:
    before = load_file(lab.base / "model.safetensors")
    attempt = lab.run(lab.lora(optimizer={"learning_rate": 0.02}, budget={"steps": 20}))
    losses = [event.metrics["validation_loss"] for event in attempt.of(Evaluated)]
    assert losses[-1] < losses[0] - 0.2
    names = {path.name for path in model_of(attempt).iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json"}
    assert "model.safetensors" not in names
    size = (model_of(attempt) / "adapter_model.safetensors").stat().st_size
    assert size < (lab.base / "model.safetensors").stat().st_size / 4
    state = load_file(model_of(attempt).parent / "state" / "optimizer.safetensors")
    assert state
    assert all("lora_" in name for name in state)
    after = load_file(lab.base / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_base_kept_in_bf16_gives_the_losses_of_one_in_fp32(lab: AdapterLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not nearly: to the bit, over a whole run."""
    from core.adapters import attach

    spec = lab.lora(precision="bf16", adapter=LORA | {"decomposed": True})
    in_bf16 = lab.run(spec)
    frozen = attach.frozen
    monkeypatch.setattr(attach, "frozen", lambda weight, spec, dtype: frozen(weight, spec, torch.float32))
    in_fp32 = lab.run(spec)
    assert figures(in_bf16) == figures(in_fp32)
    assert in_bf16.weights == in_fp32.weights


@pytest.mark.parametrize(("quantization", "within"), [("int8", 0.01), ("nf4", 0.1)])
def test_on_a_base_of_fewer_bits_the_losses_are_close(lab: AdapterLab, quantization: str, within: float) -> None:
    losses = [
        [event.loss for event in lab.run(lab.lora(adapter=LORA | {"quantization": kept}, precision="fp32")).steps]
        for kept in ("none", quantization)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=within)


def test_it_goes_on_with_an_adapter(lab: AdapterLab) -> None:
    """Its first loss is the one that the adapter ended with, and not that of the bare base."""
    quiet = {"adapter": LORA | {"dropout": 0.0}, "model": {"init": "pretrained", "from": BASE.model}}
    first = lab.run(lab.lora(**quiet, optimizer={"learning_rate": 0.02}, budget={"steps": 20}))
    lab.adapter = model_of(first)
    frozen = lab.lora(**quiet, optimizer={"learning_rate": 1e-12}, budget={"steps": 2}, evaluation={"every": 1})
    second = lab.run(frozen)
    assert second.of(Evaluated)[0].metrics["validation_loss"] == pytest.approx(
        first.of(Evaluated)[-1].metrics["validation_loss"], abs=1e-5
    )
    lab.adapter = None
    assert (
        lab.run(frozen).of(Evaluated)[0].metrics["validation_loss"]
        > first.of(Evaluated)[-1].metrics["validation_loss"] + 0.3
    )


def test_merged_it_is_trained_as_a_whole(lab: AdapterLab) -> None:
    """The first loss is that of base and adapter together, and the result is a whole model."""
    first = lab.run(lab.lora())
    lab.adapter = model_of(first)
    merged = load_merged(lab.base, lab.adapter)
    whole = lab.run(lab.lora(adapter={"kind": "none"}, optimizer={"learning_rate": 1e-12}, budget={"steps": 1}))
    assert (model_of(whole) / "model.safetensors").exists()
    trained = load_model(model_of(whole))
    for (name, a), b in zip(merged.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    stopped = lab.run(lab.lora(adapter={"kind": "none"}), stop_when=at_step(3))
    resumed = lab.run(lab.lora(adapter={"kind": "none"}), after=stopped)
    assert resumed.weights == lab.run(lab.lora(adapter={"kind": "none"})).weights
