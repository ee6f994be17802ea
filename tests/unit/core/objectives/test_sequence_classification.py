"""Cross-entropy by hand, binary cross-entropy by hand, and F1 as scikit-learn has it."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score

from core.loss import LabelStats
from core.objectives.sequence_classification import SequenceClassification
from core.training.sums import Sums

ONE, MANY = SequenceClassification(), SequenceClassification(labels="many")
NAMES = ("a", "b", "c", "d")


def stats(logits: object, labels: object) -> LabelStats:
    return LabelStats(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32))


def test_the_seeds_example_of_soft_targets() -> None:
    """p = (0.6, 0.4), q = (0.7, 0.3): - 0.6 ln 0.7 - 0.4 ln 0.3 = 0.6956 nats (the seed's section 4.3 prints 0.52)."""
    q = [math.log(0.7), math.log(0.3)]
    loss = ONE.loss(stats([q], [[0.6, 0.4]]))
    assert float(loss.sum) == pytest.approx(0.6956, abs=5e-5)
    assert float(loss.sum) == pytest.approx(-(0.6 * math.log(0.7) + 0.4 * math.log(0.3)), abs=1e-6)
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    perfect = ONE.loss(stats([[math.log(0.6), math.log(0.4)]], [[0.6, 0.4]]))
    assert float(perfect.sum) == pytest.approx(entropy, abs=1e-6)


def test_one_label_and_smoothing() -> None:
    logits = [[2.0, 0.0, -1.0]]
    normaliser = math.log(math.exp(2) + 1 + math.exp(-1))
    loss = ONE.loss(stats(logits, [[0.0, 1.0, 0.0]]))
    assert float(loss.sum) == pytest.approx(normaliser, abs=1e-6)
    smooth = SequenceClassification(label_smoothing=0.3).loss(stats(logits, [[0.0, 1.0, 0.0]]))
    by_hand = 0.1 * (normaliser - 2) + 0.8 * normaliser + 0.1 * (normaliser + 1)
    assert float(smooth.sum) == pytest.approx(by_hand, abs=1e-6)
    assert (float(loss.count), float(loss.metrics["accuracy"])) == (1.0, 0.0)


def test_many_labels_are_a_yes_or_no_each() -> None:
    """ln(1 + e^-x) for a label that is there, ln(1 + e^x) for one that is not; the mean over labels."""
    loss = MANY.loss(stats([[2.0, -1.0], [3.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]))
    softplus = [math.log1p(math.exp(x)) for x in (-2.0, -1.0, 3.0, -1.0)]
    assert float(loss.sum) == pytest.approx(sum(softplus) / 2, abs=1e-6)
    assert float(loss.count) == 2.0
    assert float(loss.metrics["exact_match"]) == 1.0
    assert float(loss.metrics["accuracy"]) == 1.5


@pytest.mark.parametrize("objective", [ONE, MANY])
def test_metrics_are_those_of_scikit_learn(objective: SequenceClassification) -> None:
    """Summed up over uneven parts, as an evaluation does. One label is never right and never said."""
    random = np.random.default_rng(3)
    logits = random.normal(size=(61, 4)) - np.array([0, 0, 0.5, 9.0])
    if objective.labels == "one":
        labels = np.eye(4)[random.integers(0, 3, 61)]
        said, true = logits.argmax(1), labels.argmax(1)
    else:
        labels = (random.random((61, 4)) < [0.5, 0.3, 0.6, 0.0]).astype(float)
        said, true = (logits > 0).astype(int), labels.astype(int)
    sums = Sums()
    for part in (slice(0, 7), slice(7, 40), slice(40, 61)):
        sums.add(objective.loss(stats(logits[part], labels[part])))
    found = sums.mean_metrics | objective.summary(sums.summed_counts, NAMES)
    present = {} if objective.labels == "one" else {"labels": [0, 1, 2]}  # scikit-learn counts an absent one as 0 there
    assert found["f1_macro"] == pytest.approx(f1_score(true, said, average="macro", **present))
    assert found["f1_micro"] == pytest.approx(f1_score(true, said, average="micro"))
    assert found["exact_match"] == pytest.approx(accuracy_score(true, said))
    assert found["accuracy"] == pytest.approx((said == true).mean())
    assert set(found) | {"loss"} == set(objective.metrics)


def test_smoothing_many_labels_is_refused() -> None:
    with pytest.raises(ValidationError, match="label_smoothing is for texts with one label"):
        SequenceClassification(labels="many", label_smoothing=0.1)
