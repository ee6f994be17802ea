"""What a job may ask of model families is checked at submit."""

from typing import Any

import pytest
from pydantic import ValidationError

from core.job_spec import TrainSpec


def spec(**model: Any) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "model": {"init": "random", "tokenizer": "bytes"} | model,
            "data": {"train": [{"file": "file-1"}]},
        }
    )


def test_a_family_brings_its_presets() -> None:
    model: Any = spec(family="gpt2", preset="nano").model
    assert (model.shape(vocab_size=300).family, model.shape(vocab_size=300).positions) == ("gpt2", "learned")
    with pytest.raises(ValidationError, match="preset 'xl' is unknown; the presets of bert are nano, micro"):
        spec(family="bert", preset="xl")
    with pytest.raises(ValidationError, match="family"):
        spec(family="mamba", preset="nano")


def test_a_dimension_that_the_family_has_no_use_for_is_refused() -> None:
    dimensions = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    spec(family="llama", dimensions=dimensions)
    with pytest.raises(ValidationError, match="gpt2 has no use for num_kv_heads"):
        spec(family="gpt2", dimensions=dimensions)
    stored = spec(family="gpt2", dimensions={"hidden_size": 64, "num_layers": 2, "num_heads": 4})
    assert TrainSpec.model_validate(stored.model_dump()) == stored
