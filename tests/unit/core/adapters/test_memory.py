"""Memory from shapes alone, against what models hold."""

import math
from typing import Any

import pytest
import torch

from core.adapters.attach import attach_to
from core.adapters.memory import frozen_bytes, trained_shapes
from core.adapters.spec import LoRA
from core.models.transformer import Transformer
from tests.unit.core.adapters.conftest import KINDS, QUANTISED
from tests.unit.core.models.tiny import Case

WIDE = {"hidden_size": 128, "num_layers": 1}
CASES = [Case("llama", WIDE | {"num_kv_heads": 2}), Case("bert", WIDE, head={"head": "span"}), Case("t5", WIDE)]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, *QUANTISED])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_what_a_model_holds(case: Case, kind: dict[str, Any], precision: torch.dtype) -> None:
    spec = LoRA(rank=4, targets=["q_proj", "up_proj"], **kind)
    model = Transformer(case.config())
    adapter = attach_to(model, spec, dtype=precision)
    trained = {name: tuple(tensor.shape) for name, tensor in adapter.tensors().items()}
    assert trained_shapes(spec, model.config) == trained
    names = set(trained)
    buffers = {
        name: buffer for name, buffer in model.named_buffers() if not name.endswith(("level_pairs", "squares_O"))
    }
    frozen = {name: parameter for name, parameter in model.named_parameters() if name not in names}
    held = sum(tensor.nbytes for tensor in (*buffers.values(), *frozen.values()))
    counted = frozen_bytes(spec, model.config, is_bf16=precision is torch.bfloat16)
    whole = 4 * sum(math.prod(shape) for name, shape in trained.items() if "lora" not in name)
    assert held == pytest.approx(counted - whole, rel=0.02)  # the last block of each matrix is filled up
