"""Tiny decoders with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer

Make = Callable[..., Transformer]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make() -> Make:
    """A decoder whose weights are large enough for differences to show."""

    def make_decoder(**dimensions: Any) -> Transformer:
        given: dict[str, Any] = {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, "context_length": 64, "rope_theta": 500.0,
        }  # fmt: skip
        dims = Dimensions.model_validate(given | dimensions)
        decoder = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=61))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in decoder.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.2 if parameter.dim() > 1 else 1 + noise * 0.1)
        return decoder.eval()

    return make_decoder
