"""Where the tensors of a decoder stand in a GGUF file, and what the file calls their kinds. Needs numpy, no torch.

Two things in such a file differ from Hugging Face's layout, and nothing fails if they are overlooked. In Llama's the
rows of queries and keys are interleaved for rotary positions that turn neighbouring coordinates, where Hugging Face's
turn the two halves of a head; and the pre-tokenizer is a name, not a definition (`core.models.gguf.vocabulary`).
"""

from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from core.models.config import FamilyName, ModelConfig
from core.models.shapes import shapes
from core.models.stored import Stored

Array = NDArray[np.float32]
TensorKind = Literal["F32", "F16", "Q8_0", "Q4_0"]
FILE_KINDS: dict[TensorKind, gguf.LlamaFileType] = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
FAMILIES: tuple[FamilyName, ...] = ("llama", "qwen2", "qwen3", "gpt2")
"""which of ours llama.cpp has under the same name and with the same parts"""
TOP = {
    "model.embed_tokens": "token_embd",
    "model.embed_positions": "position_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
BLOCK = {
    "self_attn_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FUSED = {"attn_q": 0, "attn_k": 1, "attn_v": 2}
"""in GPT-2: parts of `attn_qkv`"""


def placed(config: ModelConfig) -> dict[str, Stored]:
    """For each parameter, where it stands in the file."""
    return {name: _placed(name, config.family) for name in shapes(config)}


def _placed(name: str, family: FamilyName) -> Stored:
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return Stored((f"{TOP[module]}.{kind}",))
    _, _, layer, part = module.split(".", 3)
    theirs = BLOCK[part]
    if family == "gpt2" and theirs in FUSED:
        return Stored((f"blk.{layer}.attn_qkv.{kind}",), part=(FUSED[theirs], 3))
    return Stored((f"blk.{layer}.{theirs}.{kind}",))


def num_interleaved_heads(name: str, config: ModelConfig) -> int:
    """Of a parameter whose rows are interleaved in the file; 0: they are not."""
    if config.family != "llama":
        return 0
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    return heads.get(name.split(".")[-2], 0)


def interleaved(weights: Array, num_heads: int) -> Array:
    """Rows of each head from (half, pair) order to (pair, half) order."""
    return _reordered(weights, num_heads, halves_first=True)


def separated(weights: Array, num_heads: int) -> Array:
    """And back."""
    return _reordered(weights, num_heads, halves_first=False)


def _reordered(weights: Array, num_heads: int, *, halves_first: bool) -> Array:
    rows, rest = len(weights), weights.shape[1:]
    pairs = rows // num_heads // 2
    split = (num_heads, 2, pairs) if halves_first else (num_heads, pairs, 2)
    return weights.reshape(*split, *rest).swapaxes(1, 2).reshape(weights.shape)
