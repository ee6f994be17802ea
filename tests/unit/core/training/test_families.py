"""Decoders of other families train in the same loop, resume to the bit, and are written as their family is."""

import json
from typing import Any

import pytest

from core.events import Evaluated, Step
from tests.unit.core.training.conftest import LENGTH, Lab


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gpt2"])
def test_other_decoders_learn_and_resume_to_the_bit(lab: Lab, family: str) -> None:
    model: dict[str, Any] = {
        "init": "random",
        "family": family,
        "dimensions": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_length": LENGTH},
        "tokenizer": "bytes",
        "dropout": 0.1,
    }
    spec = lab.spec(model=model, precision="bf16")
    whole = lab.run(spec)
    losses = [event.metrics["validation_loss"] for event in whole.of(Evaluated)]
    assert losses[-1] < 0.9 * losses[0]
    stopped = lab.run(spec, stop_when=lambda event: isinstance(event, Step) and event.step == 4)
    assert lab.run(spec, after=stopped).weights == whole.weights
    config = json.loads((whole.path / (whole.finished.path or "") / "model" / "config.json").read_text())
    assert config["model_type"] == family
