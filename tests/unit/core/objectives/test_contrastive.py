"""InfoNCE by hand, and a division of the batch that changes neither the sum nor the gradient."""

import math

import pytest
import torch

from core.loss import EmbeddingStats
from core.objectives.contrastive import Contrastive


def test_by_hand() -> None:
    """Two pairs at right angles, and a negative between them."""
    half = math.sqrt(0.5)
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, half]])
    loss = Contrastive(temperature=0.5, negatives="hard").loss(
        EmbeddingStats(anchors, candidates, torch.tensor([True, True]))
    )
    each = math.log(math.exp(2) + 1 + math.exp(2 * half)) - 2
    assert float(loss.sum) == pytest.approx(2 * each, abs=1e-6)
    assert (float(loss.count), float(loss.metrics["retrieval_accuracy"])) == (2.0, 2.0)


def test_parts_sum_up_to_the_whole_with_its_gradient() -> None:
    torch.manual_seed(0)
    whole = torch.nn.functional.normalize(torch.randn(2, 5, 4), dim=-1)
    objective = Contrastive()

    def stats_of(here: list[int], lanes: torch.Tensor) -> EmbeddingStats:
        """As `core.training.stats.embeddings` makes them: other parts have no gradient."""
        here_N = torch.zeros(5, dtype=torch.bool)
        here_N[here] = True
        mixed = torch.where(here_N[:, None], lanes, lanes.detach())
        return EmbeddingStats(mixed[0], mixed[1], here_N)

    def grad(parts: list[list[int]]) -> tuple[float, float, torch.Tensor]:
        lanes = whole.clone().requires_grad_()
        losses = [objective.loss(stats_of(part, lanes)) for part in parts]
        for loss in losses:
            loss.sum.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert lanes.grad is not None
        return sum(loss.sum.item() for loss in losses), sum(loss.count.item() for loss in losses), lanes.grad

    (total, count, grad_whole), (by_parts, counted, grad_parts) = grad([[0, 1, 2, 3, 4]]), grad([[0, 1], [2], [3, 4]])
    assert by_parts == pytest.approx(total, rel=1e-6)
    assert count == counted == 5.0
    torch.testing.assert_close(grad_parts, grad_whole)
