"""Activations computed again on the way back: the same bits from less memory."""

import pytest
import torch
from torch import Tensor

from core.events import Warned
from core.training import loop
from tests.unit.core.models.tiny import Case, inputs, made, outputs, texts
from tests.unit.core.training.conftest import Lab
from tests.unit.core.training.test_resume import at_step, figures


def gradients(case: Case, *, recomputes: bool) -> tuple[list[Tensor], int]:
    """Of all parameters, and how many numbers the way forward kept for them."""
    model, kept = made(case.config()), 0
    if recomputes:
        model.recompute()

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = sum(out.square().mean() for out in outputs(model, texts(), **inputs(case.config())))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], kept


@pytest.mark.parametrize("case", [Case(family, {"num_layers": 4}) for family in ("llama", "bert", "t5")], ids=str)
def test_gradients_are_equal_and_less_is_kept(case: Case) -> None:
    plain, kept = gradients(case, recomputes=False)
    again, kept_again = gradients(case, recomputes=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert kept_again < kept / 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_dropout_computes_the_same_bits(lab: Lab, precision: str) -> None:
    plain = lab.run(lab.spec(precision=precision))
    spec = lab.spec(precision=precision, activation_checkpointing=True)
    stopped = lab.run(spec, stop_when=at_step(4))
    resumed = lab.run(spec, after=stopped)
    assert resumed.weights == plain.weights
    assert figures(resumed, after=4) == figures(plain, after=4)


def test_where_a_row_does_not_fit_it_turns_to_that_and_remembers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = lab.run(lab.spec(budget={"steps": 4}), micro_batch=1)
    real = loop.stats_of

    def full(objective, forward, batch, seen):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled() and not forward.model.model.recomputes:
            torch.rand(3)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(objective, forward, batch, seen)

    monkeypatch.setattr(loop, "stats_of", full)
    spec = lab.spec(budget={"steps": 4})
    stopped = lab.run(spec, micro_batch=1, stop_when=at_step(2))
    assert [warned.code for warned in stopped.of(Warned)] == ["activations_recomputed"]
    resumed = lab.run(spec, micro_batch=1, after=stopped)
    assert resumed.of(Warned) == []
    assert resumed.weights == plain.weights
