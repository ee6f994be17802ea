"""Single linear layers and tiny models with adapters beside them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from core.adapters.attach import Attached, attach
from core.adapters.spec import LoRA

KINDS: list[Any] = [
    pytest.param({}, id="lora"),
    pytest.param({"scaling": "rank_stabilized"}, id="rslora"),
    pytest.param({"decomposed": True}, id="dora"),
]
QUANTISED: list[Any] = [
    pytest.param({"quantization": "int8"}, id="int8"),
    pytest.param({"quantization": "nf4"}, id="nf4"),
    pytest.param({"quantization": "nf4", "double_quantization": False}, id="nf4-single"),
]
MakeLinear = Callable[..., tuple[nn.Sequential, Attached]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def fill(adapter: Attached, *, seed: int = 5, scale: float = 0.2) -> None:
    """As if it had been trained: B is no longer zero, and lengths have changed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapter.tensors().items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("lora_magnitude_vector"):
                tensor *= 1 + 0.3 * noise.clamp(-2, 2)
            else:
                tensor.copy_(scale * noise)


@pytest.fixture
def linear() -> MakeLinear:
    """A layer of 10 to 6 features, with a trained adapter beside it."""

    def make(*, bias: bool = False, dtype: torch.dtype = torch.float64, **spec: Any) -> tuple[nn.Sequential, Attached]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 6, bias=bias)).to(dtype)
        given = LoRA(**({"rank": 3, "alpha": 5.0} | spec))
        adapter = attach(model, given, linears=["0"], chosen=["0"], seed=1, dtype=dtype)
        model.to(dtype)
        fill(adapter)
        return model, adapter

    return make
