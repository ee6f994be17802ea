"""Weights of linear layers in the order in which oneDNN reads them.

`torch.nn.functional.linear` reorders the weights in every call, which is most of its time when only a few rows are
multiplied. Done once, a bf16 product of a few rows takes about half as long, with the same bits. These operators are
what torch.compile's frozen graphs call; they have no public name.
"""

import torch
from torch import Tensor, nn

ROWS = 8
"""for which the order is chosen; any number of rows may be multiplied"""


class PackedLinear(nn.Module):
    """A bf16 linear layer without bias, for inference on a CPU."""

    packed: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return product


@torch.inference_mode()
def pack_linears(model: nn.Module) -> None:
    """Replace the linear layers of a bf16 model on a CPU that multiplies bf16; leave any other as it is."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for name, layer in list(model.named_modules()):
        fits = isinstance(layer, nn.Linear) and layer.bias is None
        if fits and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
            model.set_submodule(name, PackedLinear(layer.weight.detach()))
