"""The optimizers. Each is its hyperparameters and the bytes that it keeps; `core.training.optimizers` builds it.

No torch here: the api checks these, and the plan counts their memory.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from core.spec import Spec

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Shapes = Mapping[str, tuple[int, ...]]
"""parameters by name, as `nn.Module.named_parameters` names them"""

BLOCK = 256
"""numbers that share a scale where moments are kept in a byte each"""
MIN_QUANTIZED = 4096
"""smaller tensors keep their moments in fp32 (Dettmers et al. 2022, section 2)"""


def is_block_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """A linear layer inside a block: neither embedding nor head, norm or bias."""
    return name.endswith("_proj.weight") and len(shape) == 2


def is_quantized(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and math.prod(shape) >= MIN_QUANTIZED


class OptimizerSpec(Spec):
    """What all optimizers share. Only matrices decay: a norm's weights have nothing to decay to."""

    learning_rate: float | None = Field(
        default=None, gt=0.0, le=1.0, description="the schedule's peak; default: by optimizer and model size"
    )
    weight_decay: float = Field(default=0.1, ge=0.0, le=1.0, description="decoupled: times the learning rate")
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    layer_decay: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="each layer learns at this fraction of the rate of the layer above it (Howard and Ruder 2018, "
        "arXiv:1801.06146, section 3.2); the head at the full rate, the embeddings at the lowest",
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="evaluate, show and keep the exponential moving average of the weights, with this decay a step "
        "(0.999: about the last thousand steps)",
    )

    relative_rate: ClassVar[float] = 1.0
    """default learning rate, over AdamW's"""

    @abstractmethod
    def state_bytes(self, shapes: Shapes) -> int:
        """What it keeps between steps, besides weights and gradients."""


class AdamW(OptimizerSpec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0.0)
    state: Literal["fp32", "int8"] = Field(
        default="fp32",
        description="int8: each moment takes a byte instead of four (Dettmers et al. 2022, arXiv:2110.02861)",
    )

    def state_bytes(self, shapes: Shapes) -> int:
        return sum(self._bytes(shape) for shape in shapes.values())

    def _bytes(self, shape: tuple[int, ...]) -> int:
        if self.state == "fp32" or not is_quantized(shape):
            return 8 * math.prod(shape)
        return 2 * math.ceil(math.prod(shape) / BLOCK) * (BLOCK + 4)


class Muon(OptimizerSpec):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024); AdamW for embeddings, head and norms.

    An orthogonal A x B matrix is scaled by 0.2 sqrt(max(A, B)), which gives it the root mean square of AdamW's updates,
    so that both halves take AdamW's learning rate and weight decay (Liu et al. 2025, arXiv:2502.16982, eq. 4).
    """

    kind: Literal["muon"] = "muon"
    momentum: Beta = 0.95
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="of AdamW's half")
    eps: float = Field(default=1e-8, gt=0.0, description="of AdamW's half")

    def state_bytes(self, shapes: Shapes) -> int:
        return sum((4 if is_block_matrix(name, shape) else 8) * math.prod(shape) for name, shape in shapes.items())


class Adafactor(OptimizerSpec):
    """Second moments as an outer product of rows and columns, no first one (Shazeer and Stern 2018, arXiv:1804.04235).

    The learning rate is relative: a step moves a tensor by at most this fraction of its root mean square, and by no
    more than 1 / sqrt(step) of it.
    """

    kind: Literal["adafactor"] = "adafactor"
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0, description="decoupled: times the learning rate")
    clip_threshold: float = Field(default=1.0, ge=1.0, description="largest root mean square of an update")

    relative_rate: ClassVar[float] = 10.0

    def state_bytes(self, shapes: Shapes) -> int:
        return 4 * sum(
            math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1] if len(shape) > 1 else math.prod(shape)
            for shape in shapes.values()
        )


class SGD(OptimizerSpec):
    """Gradient descent with Nesterov's momentum (Sutskever et al. 2013). Weight decay is coupled: an L2 penalty."""

    kind: Literal["sgd"] = "sgd"
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0, description="coupled: an L2 penalty on matrices")
    momentum: Beta = 0.9

    relative_rate: ClassVar[float] = 30.0

    def state_bytes(self, shapes: Shapes) -> int:
        return 4 * sum(map(math.prod, shapes.values())) if self.momentum else 0


Optimizer = Annotated[AdamW | Muon | Adafactor | SGD, Field(discriminator="kind")]


def default_learning_rate(
    num_parameters: int, *, pretrained: bool, optimizer: type[OptimizerSpec] = AdamW, factor: float = 1.0
) -> float:
    """AdamW: 3e-3 at 1 M parameters, falling with the cube root of the size (3e-4 at 1 B); a tenth of it to fine-tune;
    `factor`: an objective's `relative_rate`.

    The exponent is close to what Porian et al. 2024 (arXiv:2406.19146, table 4) find for AdamW. Muon takes the same
    rate. Adafactor's is relative to weights that begin at 0.02, and an update of AdamW has a root mean square of 0.2 to
    0.4, so ten times the number is about the same step.
    """
    rate = 3e-3 * (max(num_parameters, 1_000_000) / 1e6) ** (-1 / 3) * optimizer.relative_rate * factor
    return float(f"{rate * (0.1 if pretrained else 1.0):.2e}")
