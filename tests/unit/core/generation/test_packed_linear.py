"""Packed weights give the same bits, and other models are left alone."""

import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.generation.packed_linear import PackedLinear, pack_linears

from .conftest import tiny_decoder


@pytest.mark.parametrize("rows", [1, 4, 8, 32, 256])
def test_the_bits_are_those_of_a_plain_linear(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(192, 576, generator=generator).bfloat16()
    x = torch.randn(2, rows, 576, generator=generator).bfloat16()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not any(isinstance(layer, PackedLinear) for layer in packed(torch.bfloat16).modules())
        return
    with torch.inference_mode():
        assert torch.equal(PackedLinear(weight)(x), torch.nn.functional.linear(x, weight))


def packed(dtype: torch.dtype) -> torch.nn.Module:
    model = tiny_decoder(Tokenizer.bytes().vocab_size, dtype=dtype)
    pack_linears(model)
    return model


def test_only_bfloat16_is_packed() -> None:
    assert not any(isinstance(layer, PackedLinear) for layer in packed(torch.float32).modules())
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not any(isinstance(layer, torch.nn.Linear) for layer in packed(torch.bfloat16).modules())
