"""The average of weights: what it is, where it stands in for the weights, and that a resume loses nothing of it."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.events import Evaluated, Resumed
from core.training.averaging import Average
from tests.unit.core.training.conftest import Attempt, Lab
from tests.unit.core.training.test_resume import at_step, figures


def tensors(attempt: Attempt, name: str) -> dict[str, Any]:
    return load_file(attempt.path / (attempt.finished.path or "") / name)


def test_the_first_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = Average(model, 0.25)
    model.weight.data.fill_(2.0)
    average.update(1)  # d = 2 / 11: the run is young
    model.weight.data.fill_(4.0)
    average.update(2)  # d = 3 / 12
    with average.in_place():
        assert model.weight.item() == pytest.approx(0.25 * (2 / 11 * 1 + 9 / 11 * 2) + 0.75 * 4)
    assert model.weight.item() == 4.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_average_and_the_same_weights(lab: Lab, optimizer: str) -> None:
    spec = lab.spec(optimizer={"learning_rate": 0.01, "ema_decay": 0.9, "kind": optimizer}, precision="bf16")
    whole = lab.run(spec)
    stopped = lab.run(spec, stop_when=at_step(5))
    killed = lab.run(spec, after=stopped, kill_when=at_step(8))
    resumed = lab.run(spec, after=killed)
    assert [attempt.of(Resumed)[0] for attempt in (killed, resumed)] == [Resumed(step=5), Resumed(step=6)]
    assert resumed.weights == whole.weights
    assert figures(resumed) == figures(whole, after=6)
    trained = tensors(whole, "state/weights.safetensors")
    assert all(
        torch.equal(trained[name], value) for name, value in tensors(resumed, "state/weights.safetensors").items()
    )


def test_training_does_not_see_it_but_evaluation_and_the_result_do(lab: Lab) -> None:
    plain = lab.run(lab.spec())
    averaged = lab.run(lab.spec(optimizer={"learning_rate": 0.01, "ema_decay": 0.9}))
    exclude = {"seconds", "tokens_per_second"}
    steps = [[step.model_dump(exclude=exclude) for step in attempt.steps] for attempt in (plain, averaged)]
    assert steps[0] == steps[1]
    assert plain.of(Evaluated) != averaged.of(Evaluated)
    model, trained = tensors(plain, "model/model.safetensors"), tensors(averaged, "state/weights.safetensors")
    given = tensors(averaged, "model/model.safetensors")
    assert all(torch.equal(value, model[name]) for name, value in trained.items() if name in model)
    assert not torch.equal(given["model.norm.weight"], model["model.norm.weight"])
