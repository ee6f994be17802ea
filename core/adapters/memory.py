"""What a run with an adapter holds in memory besides activations, from shapes alone. No torch."""

import math

from core.adapters.quantise import BLOCK, SCALES_BLOCK
from core.adapters.spec import LoRA
from core.adapters.targets import linear_layers, targeted, trained_whole
from core.models.config import ModelConfig
from core.models.shapes import shapes


def trained_shapes(spec: LoRA, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What is trained, by name: low-rank parts and heads."""
    found: dict[str, tuple[int, ...]] = {}
    for name in targeted(spec, config):
        columns, rows = linear_layers(config)[name]
        found |= {f"{name}.lora_A": (spec.rank, columns), f"{name}.lora_B": (rows, spec.rank)}
        if spec.decomposed:
            found[f"{name}.lora_magnitude_vector"] = (rows,)
    return found | {name: shapes(config)[name] for name in trained_whole(config)}


def frozen_bytes(spec: LoRA, config: ModelConfig, *, is_bf16: bool) -> int:
    """Of the base: the matrices of its blocks as they are kept, all else in fp32."""
    scales = (1 + 4 / SCALES_BLOCK) if spec.double_quantization else 4
    kept = {"none": 2.0 if is_bf16 else 4.0, "int8": 1 + 4 / BLOCK, "nf4": 0.5 + scales / BLOCK}[spec.quantization]
    matrices = sum(math.prod(shape) for shape in linear_layers(config).values())
    return round(kept * matrices) + 4 * (config.num_parameters() - matrices)
