"""The loop when all is well, when numbers are not finite, when memory or the disk is full, and how it ends."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from core.child import failure
from core.data.batches import RowBatch
from core.errors import Diverged, StorageFull, TooLarge
from core.events import Entered, Evaluated, Event, Failed, Sampled, Saved, Step, Warned
from core.objectives.causal_lm import CausalLM
from core.training import loop
from core.training.loop import Run
from tests.unit.core.training.conftest import BASE, Lab


@dataclass
class Opened:
    """A run's parts, and the events that its loop gave."""

    run: Run
    progress: Any
    events: list[Event]

    def go(self) -> "Opened":
        for event in loop.train(self.run, self.progress):
            self.events.append(event)
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.run.forward.model.named_parameters()}


@pytest.fixture
def opened(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything that `core.training.run` hands to the loop, without having run it."""

    def open_run(*, plan: dict[str, Any] | None = None, **fields: Any) -> Opened:
        held: list[Opened] = []

        def hold(run: Run, progress: Any) -> Iterator[Event]:
            held.append(Opened(run, progress, []))
            return iter(())

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train", hold)
            lab.run(lab.spec(**fields), **(plan or {}))
        return held[0]

    return open_run


def no_dropout(**fields: Any) -> dict[str, Any]:
    return {"model": BASE["model"] | {"dropout": 0.0}, **fields}


def test_the_events_of_a_run_in_their_order(lab: Lab) -> None:
    attempt = lab.run(lab.spec(budget={"steps": 4}, evaluation={"every": 2, "samples": 1}, checkpoints={"every": 2}))
    assert [event.kind for event in attempt.events] == [
        *("entered", "started", "entered"),
        *("step", "step", "entered", "evaluated", "sampled", "entered", "entered", "saved", "entered"),
        *("step", "step", "entered", "evaluated", "sampled", "entered", "entered", "saved", "entered"),
        "finished",
    ]
    phases = [event.phase for event in attempt.of(Entered)]
    assert phases == ["loading", "training", *["evaluating", "training", "saving", "training"] * 2]
    first, last = attempt.saved
    assert (first.step, first.reason, first.best) == (2, "best", True)
    assert (last.step, last.reason) == (4, "final")
    assert last.metrics == attempt.of(Evaluated)[-1].metrics == attempt.finished.metrics
    assert attempt.finished.path == last.path


def test_it_learns(lab: Lab) -> None:
    attempt = lab.run(lab.spec(**no_dropout(budget={"steps": 60}, evaluation={"every": 60, "samples": 2})))
    steps = attempt.steps
    assert steps[0].loss == pytest.approx(math.log(327), abs=0.3)  # a uniform guess
    assert steps[-1].loss < 2.0
    assert steps[-1].metrics["token_accuracy"] > 0.6
    metrics = attempt.finished.metrics
    assert metrics["validation_perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    assert metrics["validation_token_accuracy"] > 0.6
    nats = metrics["validation_loss"]  # a token is a byte; only the end of a text is none
    assert nats / math.log(2) == pytest.approx(metrics["validation_bits_per_byte"], rel=0.1)
    prompts = [sampled.prompt for sampled in attempt.of(Sampled)]
    assert len(prompts) == 2
    assert all(sampled.text for sampled in attempt.of(Sampled))


def test_tokens_are_counted_without_padding(lab: Lab) -> None:
    attempt = lab.run(lab.spec(budget={"epochs": 1}))
    assert attempt.finished.tokens == int(lab.train.offsets[-1]) - len(lab.train)
    assert attempt.steps[0].tokens == 6 * 16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_split_into_micro_batches_does_not_matter(opened: Any, precision: str) -> None:
    """Up to rounding: in fp32 within 1e-6 of the gradient's norm, in bf16 within 1e-2."""
    gradients = {}
    for micro_batch in (1, 4, 6):
        it = opened(plan={"micro_batch": micro_batch}, **no_dropout(precision=precision))
        batch = it.run.batches.batch(0)
        batch.lanes[0].weights_BT[1] = 0.0  # rows that count differently: a mean of means would show
        batch.lanes[0].weights_BT[2, 3:] = 0.0
        list(loop.accumulate_gradients(it.run, it.progress, batch))
        gradients[micro_batch] = torch.cat([p.grad.flatten() for p in it.run.forward.model.parameters()])
    tolerance = 1e-6 if precision == "fp32" else 1e-2
    for micro_batch in (1, 4):
        difference = gradients[micro_batch] - gradients[6]
        assert float(difference.norm() / gradients[6].norm()) < tolerance


def poison(it: Opened, *, steps: set[int], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The loss, or only its gradient, is not a number at these steps (from 0)."""
    real = CausalLM.loss

    def loss(self: CausalLM, stats: Any) -> Any:
        found = real(self, stats)
        if it.progress.step not in steps or not found.sum.requires_grad:
            return found
        if how == "loss":
            return type(found)(sum=found.sum * math.nan, count=found.count)
        bad = (stats.logp_N - stats.logp_N).sqrt().sum()  # 0, with an infinite slope
        return type(found)(sum=found.sum + bad, count=found.count)

    monkeypatch.setattr(CausalLM, "loss", loss)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_never_taken(opened: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    it = opened()
    poison(it, steps={0}, monkeypatch=monkeypatch, how=how)
    before = it.parameters()
    events = list(loop.take_step(it.run, it.progress))
    assert [event.kind for event in events] == ["warned", "step"]
    assert events[0].code == "nonfinite_step"
    assert all(torch.equal(value, before[name]) for name, value in it.parameters().items())
    assert not it.run.optimizer.state  # nor has it moved the moments
    assert it.progress.step == 1  # the batch is skipped
    list(loop.take_step(it.run, it.progress))
    assert any(not torch.equal(value, before[name]) for name, value in it.parameters().items())


def test_too_many_of_them_end_the_run_with_the_numbers(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = opened(budget={"steps": 50})
    poison(it, steps={2, 3, 5, 6}, monkeypatch=monkeypatch, how="loss")
    with pytest.raises(Diverged, match=r"4 of the last 100 steps; last at step 7: loss nan.*learning rate") as ended:
        it.go()
    assert failure(ended.value).retryable is False
    assert [event.step for event in it.of(Step)] == [1, 2, 3, 4, 5, 6]


def test_a_skipped_first_step_can_be_saved_and_resumed(lab: Lab, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer has no moments yet."""
    real = torch.nn.utils.clip_grad_norm_
    calls: list[int] = []

    def clip(*args: Any) -> Tensor:
        calls.append(1)
        return torch.tensor(math.nan) if len(calls) == 1 else real(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    spec = lab.spec(budget={"steps": 3})
    stopped = lab.run(spec, stop_when=lambda event: isinstance(event, Step))
    assert [warned.code for warned in stopped.of(Warned)] == ["nonfinite_step"]
    assert lab.run(spec, after=stopped).finished.step == 3


def out_of_memory_above(rows: int, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    real = loop.stats_of

    def stats_of(objective: Any, forward: Any, batch: RowBatch, seen: Any) -> Any:
        if torch.is_grad_enabled() and len(batch) > rows:
            torch.rand(3)  # dropout of the layers that did fit
            raise error
        return real(objective, forward, batch, seen)

    monkeypatch.setattr(loop, "stats_of", stats_of)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_out_of_memory_halves_the_micro_batch(lab: Lab, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    spec = lab.spec(budget={"steps": 4})
    small = lab.run(spec, micro_batch=2)
    out_of_memory_above(2, monkeypatch, error)
    halved = lab.run(spec, micro_batch=4)
    assert [warned.code for warned in halved.of(Warned)] == ["micro_batch_halved"]
    assert halved.weights == small.weights  # the same random numbers again, as if it had begun so


def test_out_of_memory_with_a_single_row_is_the_end(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = opened()
    out_of_memory_above(0, monkeypatch, torch.OutOfMemoryError("tried to allocate 7 GiB"))
    with pytest.raises(TooLarge, match=r"16 tokens.*7 GiB") as ended:
        it.go()
    assert ended.value.code == "insufficient_memory"
    assert [w.code for w in it.of(Warned)] == ["micro_batch_halved"] * 2 + ["activations_recomputed"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = opened()
    out_of_memory_above(0, monkeypatch, RuntimeError("CUDA error: device-side assert"))
    with pytest.raises(RuntimeError, match="device-side"):
        it.go()
    assert it.of(Warned) == []


def losses(it: Opened, values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend these validation losses."""
    left, real = iter(values), loop.metrics_of
    monkeypatch.setattr(loop, "metrics_of", lambda *given: real(*given) | {"loss": next(left)})


@pytest.mark.parametrize(
    ("stop", "values", "last_step", "reason"),
    [
        ({"patience": 2}, [5.0, 4.0, 4.1, 4.2, 9.0], 8, "early_stopped"),
        ({"patience": 2, "min_delta": 0.5}, [5.0, 4.8, 4.6, 4.0, 9.0], 6, "early_stopped"),
        ({"patience": 2}, [5.0, 5.1, 4.0, 4.1, 3.0, 2.0], 12, "completed"),
        ({"target": 4.0}, [5.0, 4.0, 3.0], 4, "target_reached"),
        ({"target": 4.0, "patience": 1}, [5.0, 6.0], 4, "early_stopped"),
    ],
)
def test_when_it_ends(
    opened: Any, monkeypatch: pytest.MonkeyPatch, stop: dict[str, Any], values: list[float], last_step: int, reason: str
) -> None:
    it = opened(stop=stop, budget={"steps": 12})
    losses(it, values, monkeypatch)
    it.go()
    assert (it.events[-1].step, it.events[-1].reason) == (last_step, reason)
    assert it.of(Saved)[-1].step == last_step


def test_accuracy_is_better_when_it_is_higher(lab: Lab) -> None:
    stop = {"metric": "validation_token_accuracy", "target": 0.5}
    attempt = lab.run(lab.spec(**no_dropout(budget={"steps": 80}, stop=stop)))
    assert attempt.finished.reason == "target_reached"
    values = [event.metrics["validation_token_accuracy"] for event in attempt.of(Evaluated)]
    assert values[-1] >= 0.5 > max(values[:-1])


def test_the_best_is_kept_between_the_scheduled_ones(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = opened(budget={"steps": 10}, checkpoints={"every": 5, "keep_best": True})
    losses(it, [5.0, 4.0, 6.0, 3.0, 7.0], monkeypatch)
    it.go()
    assert [(saved.step, saved.best) for saved in it.of(Saved)] == [
        (2, True), (4, True), (5, False), (8, True), (10, False),
    ]  # fmt: skip
    assert it.of(Saved)[2].metrics == {}  # its step was not evaluated


def test_the_normaliser_s_penalty_is_not_part_of_the_perplexity(lab: Lab) -> None:
    objective = {"kind": "causal_lm", "z_loss": 0.1}
    slow = {"kind": "adamw", "learning_rate": 1e-6}
    metrics = lab.run(lab.spec(budget={"steps": 2}, objective=objective, optimizer=slow)).finished.metrics
    assert math.exp(metrics["validation_loss"]) > 2 * metrics["validation_perplexity"]
    assert metrics["validation_perplexity"] == pytest.approx(327, rel=0.2)


def test_a_budget_in_seconds(lab: Lab) -> None:
    spec = lab.spec(budget={"seconds": 0.5}, checkpoints={"every": 1000}, evaluation={"every": 1000, "samples": 0})
    begun = time.monotonic()
    attempt = lab.run(spec)
    assert 0.5 < time.monotonic() - begun < 10
    assert attempt.finished.reason == "completed"
    assert len(attempt.steps) > 3
    assert attempt.steps[-1].learning_rate < attempt.steps[len(attempt.steps) // 4].learning_rate


def test_the_schedule_is_read_in_the_middle_of_a_step(lab: Lab) -> None:
    schedule = {"kind": "warmup_stable_decay", "warmup_fraction": 0.25, "decay_fraction": 0.25}
    attempt = lab.run(lab.spec(budget={"steps": 4}, schedule=schedule))
    assert [step.learning_rate for step in attempt.steps] == pytest.approx([0.005, 0.01, 0.01, 0.005])


def test_only_matrices_decay_and_the_gradient_is_clipped(opened: Any) -> None:
    it = opened(optimizer={"learning_rate": 1.0, "weight_decay": 0.5, "max_grad_norm": 1e-30, "eps": 1.0})
    before = it.parameters()
    it.run.optimizer.zero_grad()
    event = next(event for event in loop.take_step(it.run, it.progress) if isinstance(event, Step))
    assert event.grad_norm > 0.1  # as it was
    for name, value in it.parameters().items():
        kept = 1 - 0.5 * event.learning_rate if value.dim() > 1 else 1.0
        torch.testing.assert_close(value, before[name] * kept, rtol=1e-5, atol=1e-6)


def test_a_full_disk_is_survived_twice(opened: Any) -> None:
    it = opened(budget={"steps": 12}, checkpoints={"every": 2})
    real, fails = it.run.save, iter([True, True, False, True, False, False])

    def save(progress: Any) -> Any:
        if next(fails):
            raise StorageFull("The disk is full.")
        return real(progress)

    object.__setattr__(it.run, "save", save)
    it.go()
    assert [warned.code for warned in it.of(Warned)] == ["storage_full"] * 3
    assert [saved.step for saved in it.of(Saved)] == [6, 10, 12]
    assert it.events[-1].kind == "finished"


def test_a_disk_that_stays_full_ends_the_run_and_may_be_tried_again(opened: Any) -> None:
    it = opened(budget={"steps": 12}, checkpoints={"every": 2})

    def save(progress: Any) -> Any:
        raise StorageFull("The disk is full.")

    object.__setattr__(it.run, "save", save)
    with pytest.raises(StorageFull) as ended:
        it.go()
    assert it.of(Step)[-1].step == 6
    word = failure(ended.value)
    assert isinstance(word, Failed)
    assert (word.code, word.retryable) == ("storage_full", True)


def test_a_long_evaluation_gives_signs_of_life(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SIGN_OF_LIFE_SECONDS", 0.0)
    attempt = lab.run(lab.spec(budget={"steps": 1}))
    assert [event.phase for event in attempt.of(Entered)].count("evaluating") > 1


def test_the_loop_costs_little_beside_the_model(opened: Any) -> None:
    """Even with a model this small, events, sums and schedule take less than the arithmetic."""
    it = opened(budget={"steps": 40}, evaluation={"every": 1000}, checkpoints={"every": 1000})
    batch = it.run.batches.batch(0)
    list(loop.take_step(it.run, it.progress))

    def fastest(work: Any) -> float:
        def once() -> float:
            begun = time.process_time()
            work()
            return time.process_time() - begun

        return min(once() for _ in range(12))

    def arithmetic() -> None:
        loop._accumulate_gradients(it.run, 4, batch)
        it.run.optimizer.step()

    assert fastest(lambda: list(loop.take_step(it.run, it.progress))) < 2 * fastest(arithmetic)


def test_a_run_without_validation(lab: Lab) -> None:
    attempt = lab.run(lab.spec(data={"train": [{"file": "file-1"}]}, budget={"steps": 2}), evaluate_every=None)
    assert attempt.of(Evaluated) == []
    assert (attempt.finished.reason, attempt.finished.metrics) == ("completed", {})


def test_every_metric_that_text_promises_is_there_and_can_be_watched(lab: Lab) -> None:
    attempt = lab.run(lab.spec(budget={"steps": 4}, stop={"metric": "validation_bits_per_byte", "target": 0.01}))
    promised = {f"validation_{name}" for name in CausalLM.metrics}
    assert attempt.of(Evaluated)[-1].metrics.keys() == promised
