"""The project's signature: a run that was stopped or killed anywhere ends with the bits of one that was left alone."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from core.events import Entered, Evaluated, Event, Resumed, Saved, Step
from tests.unit.core.training.conftest import BASE, Attempt, Lab
from worker.slots import has_compiler

# Epochs of 25 rows end inside steps 5 and 9; the last batch is short; micro-batches are of 4 and 2 rows; dropout draws.
LAST_STEP = 11


def figures(attempt: Attempt, *, after: int = 0) -> list[dict[str, Any]]:
    """Every step and evaluation, without what the clock says."""
    timed = {"seconds", "tokens_per_second"}
    events = [event for event in attempt.events if isinstance(event, Step | Evaluated) and event.step > after]
    return [event.model_dump(exclude=timed) for event in events]


def at_step(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Step) and event.step == step


@pytest.mark.parametrize(
    ("precision", "stops", "kills"), [("fp32", (2, 5, 8), (7,)), ("bf16", range(1, LAST_STEP + 1), (1, 3, 5, 10))]
)
def test_stopped_or_killed_anywhere_it_ends_with_the_same_bits(
    lab: Lab, precision: str, stops: Iterable[int], kills: Iterable[int]
) -> None:
    spec = lab.spec(precision=precision)
    whole = lab.run(spec)
    assert whole.finished.step == LAST_STEP
    assert whole.finished.reason == "completed"
    for step in stops:
        stopped = lab.run(spec, stop_when=at_step(step))
        assert (stopped.finished.reason, stopped.finished.step) == ("interrupted", step)
        resumed = lab.run(spec, after=stopped)
        assert resumed.of(Resumed) == [Resumed(step=step, exactness="exact")]
        assert resumed.weights == whole.weights, f"stopped at {step}"
        assert figures(stopped) + figures(resumed, after=step - 1) == figures(whole)
    for step in kills:
        killed = lab.run(spec, kill_when=at_step(step))
        resumed = lab.run(spec, after=killed)
        assert resumed.weights == whole.weights, f"killed at {step}"
        begun = resumed.of(Resumed)[0].step if killed.saved else 0
        assert figures(resumed) == figures(whole, after=begun)


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler: apt-get install g++ python3-dev")
def test_compiled_it_learns_the_same_and_ends_with_the_same_bits_too(lab: Lab) -> None:
    """What the first run compiled is thrown away before it resumes, as in another process."""
    fields: dict[str, Any] = {"precision": "bf16", "data": {"train": [{"file": "file-1"}]}, "budget": {"steps": 5}}
    spec = lab.spec(**fields, batch={"sequences": 4}, model={**BASE["model"], "dropout": 0.0})
    plain, whole = lab.run(spec), lab.run(spec, compiled=True)
    assert [step.loss for step in whole.steps] == pytest.approx([step.loss for step in plain.steps], rel=0.01)
    assert whole.weights != plain.weights, "it was not compiled"
    spec = lab.spec(**fields, batch={"sequences": 4})
    whole, stopped = lab.run(spec, compiled=True), lab.run(spec, stop_when=at_step(3), compiled=True)
    torch.compiler.reset()
    resumed = lab.run(spec, after=stopped, compiled=True)
    assert resumed.of(Resumed) == [Resumed(step=3, exactness="exact")]
    assert resumed.weights == whole.weights


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "adamw", "state": "int8", "layer_decay": 0.8},
        {"kind": "muon"},
        {"kind": "adafactor"},
        {"kind": "sgd"},
        {"kind": "sgd", "momentum": 0.0},
    ],
    ids=lambda optimizer: "-".join(map(str, optimizer.values())),
)
def test_every_optimizer_goes_on_as_if_nothing_had_been(lab: Lab, optimizer: dict[str, Any]) -> None:
    spec = lab.spec(optimizer={"learning_rate": 0.01, **optimizer}, precision="bf16")
    whole = lab.run(spec)
    stopped = lab.run(spec, stop_when=at_step(5))
    killed = lab.run(spec, after=stopped, kill_when=at_step(8))
    resumed = lab.run(spec, after=killed)
    assert [attempt.of(Resumed)[0].step for attempt in (killed, resumed)] == [5, 6]
    assert resumed.weights == whole.weights
    assert figures(resumed) == figures(whole, after=6)


def test_the_fused_kernel_of_long_rows_repeats_its_bits_too(lab: Lab) -> None:
    spec = lab.spec(precision="bf16")
    whole = lab.run(spec, attention="sdpa")
    stopped = lab.run(spec, stop_when=at_step(5), attention="sdpa")
    resumed = lab.run(spec, after=stopped, attention="sdpa")
    assert resumed.of(Resumed)[0].exactness == "exact"
    assert resumed.weights == whole.weights


def test_killed_again_and_again(lab: Lab) -> None:
    spec = lab.spec(precision="bf16")
    whole = lab.run(spec)
    attempt = lab.run(spec, kill_when=at_step(4))
    attempt = lab.run(spec, after=attempt, stop_when=at_step(5))
    attempt = lab.run(spec, after=attempt, kill_when=at_step(8))
    attempt = lab.run(spec, after=attempt)
    assert attempt.weights == whole.weights


@pytest.mark.parametrize("moment", [Entered(phase="evaluating"), Entered(phase="saving")])
@pytest.mark.parametrize("how", ["kill_when", "stop_when"])
def test_cut_short_while_it_evaluates_or_saves(lab: Lab, moment: Entered, how: str) -> None:
    """What SIGTERM cuts short, the resumed run does again: early stopping must see the same evaluations."""
    spec = lab.spec(stop={"patience": 2, "min_delta": 0.01})
    whole = lab.run(spec)
    seen: list[Event] = []

    def is_third(event: Event) -> bool:
        seen.extend([event] if event == moment else [])
        return event == moment and len(seen) == 3

    cut = lab.run(spec, **{how: is_third})
    resumed = lab.run(spec, after=cut)
    assert resumed.weights == whole.weights
    assert resumed.finished == whole.finished
    evaluations = {e.step: e for e in (*cut.of(Evaluated), *resumed.of(Evaluated))}
    assert list(evaluations.values()) == whole.of(Evaluated)


def test_a_run_that_was_over_says_so_again(lab: Lab) -> None:
    """Killed between its last checkpoint and its last word."""
    spec = lab.spec()
    whole = lab.run(spec)
    killed = lab.run(spec, kill_when=lambda event: isinstance(event, Saved) and event.reason == "final")
    again = lab.run(spec, after=killed)
    assert again.steps == []
    assert again.finished.reason == "completed"
    assert again.weights == whole.weights


@pytest.mark.parametrize("other", [{"micro_batch": 3}, {"torch": "0.1"}])
def test_another_plan_is_the_same_state_and_says_so(lab: Lab, other: dict[str, Any]) -> None:
    spec = lab.spec()
    stopped = lab.run(spec, stop_when=at_step(4))
    resumed = lab.run(spec, after=stopped, **other)
    assert resumed.of(Resumed) == [Resumed(step=4, exactness="state")]
    assert resumed.finished.step == LAST_STEP


def test_a_resume_really_reads_each_part_of_the_state(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the random state the bits differ: dropout draws, and the test above would notice."""
    from core.training import random_state

    spec = lab.spec()
    whole = lab.run(spec)
    stopped = lab.run(spec, stop_when=at_step(4))
    monkeypatch.setattr(random_state, "restore", lambda states: None)
    assert lab.run(spec, after=stopped).weights != whole.weights


def test_another_seed_gives_another_model(lab: Lab) -> None:
    assert lab.run(lab.spec(seed=1)).weights != lab.run(lab.spec(seed=2)).weights
