"""How many rows a batch must have, so that a matrix product rounds each row alike whatever stands beside it.

Libraries choose another kernel, with another order of summation, for a few rows than for many; where the border lies
depends on the processor, the library and the matrix (in fp32: 4 rows on a Zen 4, 16 on a Sapphire Rapids). So it is
looked for with the model's own matrices.
"""

import torch
from torch import nn

from core.generation.packed_linear import PackedLinear

CHOICES = (4, 8, 16, 32)
WHOLE = 64
"""rows of the product that others are compared with"""
_known: dict[tuple[object, ...], int] = {}
"""by kind and shape of a layer: it is looked for once in a process"""


@torch.inference_mode()
def min_rows(model: nn.Module) -> int:
    """The least of `CHOICES` that does for all layers on this processor; on a GPU, where nothing is promised, the
    least."""
    found = CHOICES[0]
    for layer in model.modules():
        if isinstance(layer, nn.Linear | PackedLinear):
            weight = layer.weight if isinstance(layer, nn.Linear) else layer.packed
            if weight.device.type == "cpu":
                key = (type(layer), layer.in_features, layer.out_features, weight.dtype, torch.get_num_threads())
                if key not in _known:
                    _known[key] = _rows_of(layer, layer.in_features, weight.dtype)
                found = max(found, _known[key])
    return found


def _rows_of(layer: nn.Module, width: int, dtype: torch.dtype) -> int:
    x = torch.randn(WHOLE, 1, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = layer(x)
    alike = {rows: torch.equal(layer(x[:rows]), whole[:rows]) for least in CHOICES for rows in (least, least + 1)}
    return next((least for least in CHOICES if all(alike[rows] for rows in alike if rows >= least)), CHOICES[-1])
