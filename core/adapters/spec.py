"""What a user says about an adapter: `adapter` of a train job. No torch here.

LoRA      W' = W + f B A                                  (Hu et al. 2021, arXiv:2106.09685, section 4.1)
rsLoRA    the same with f = alpha / sqrt(rank)            (Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2)
DoRA      W' = m (W + f B A) / |W + f B A|, row by row    (Liu et al. 2024, arXiv:2402.09353, equation 5)
QLoRA     any of them on a W that is kept in 8 or 4 bits  (Dettmers et al. 2023, arXiv:2305.14314)
"""

import math
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from core.spec import Spec

Target = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]
Quantization = Literal["none", "int8", "nf4"]
LEARNING_RATE_FACTOR = 10.0
"""An adapter learns best at about ten times the rate of all weights, whatever its rank (Schulman et al. 2025, "LoRA
Without Regret")."""


class NoAdapter(Spec):
    """Train every weight."""

    kind: Literal["none"] = "none"


class LoRA(Spec):
    """Train two thin matrices beside each frozen linear layer: B A, of rank at most `rank`."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0.0, le=65536.0, description="stays as it is when the rank is changed")
    scaling: Literal["standard", "rank_stabilized"] = Field(
        default="standard", description="standard: alpha / rank; rank_stabilized: alpha / sqrt(rank), for high ranks"
    )
    decomposed: bool = Field(default=False, description="train each row's length apart from its direction (DoRA)")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="of what the adapter reads")
    targets: tuple[Target, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="linear layers by name or by its last parts (`q_proj`); default: all of the blocks",
    )
    quantization: Quantization = Field(default="none", description="how the frozen weights are kept while training")
    double_quantization: bool = Field(default=True, description="nf4: the blocks' scales are kept in 8 bits, too")

    @property
    def factor(self) -> float:
        """What the product B A is multiplied with."""
        return self.alpha / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))


Adapter = Annotated[NoAdapter | LoRA, Field(discriminator="kind")]
