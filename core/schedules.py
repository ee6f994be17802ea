"""Learning-rate schedules: the spec is the schedule. Each is its fields and one pure function of progress."""

import math
from typing import Annotated, Literal

from pydantic import Field

from core.spec import Spec

Warmup = Annotated[float, Field(ge=0.0, le=0.5, description="linear, over this part of the run")]


class Cosine(Spec):
    """Linear warm-up, then half a cosine down to `final_fraction` (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

    kind: Literal["cosine"] = "cosine"
    warmup_fraction: Warmup = 0.02
    final_fraction: float = Field(default=0.1, ge=0.0, le=1.0)

    def factor(self, progress: float) -> float:
        """What the peak learning rate is multiplied by; `progress` runs from 0 to 1."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        rest = (progress - self.warmup_fraction) / (1 - self.warmup_fraction)
        return self.final_fraction + (1 - self.final_fraction) * (1 + math.cos(math.pi * min(rest, 1.0))) / 2


class WarmupStableDecay(Spec):
    """Linear warm-up, constant, linear decay over the last `decay_fraction` (Hu et al. 2024, arXiv:2404.06395)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup_fraction: Warmup = 0.02
    decay_fraction: float = Field(default=0.2, ge=0.0, le=0.5)
    final_fraction: float = Field(default=0.0, ge=0.0, le=1.0)

    def factor(self, progress: float) -> float:
        """What the peak learning rate is multiplied by; `progress` runs from 0 to 1."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        left = 1.0 - min(progress, 1.0)
        if left >= self.decay_fraction:
            return 1.0
        return self.final_fraction + (1 - self.final_fraction) * left / self.decay_fraction


class Linear(Spec):
    """Linear warm-up, then a straight line to `final_fraction` (as BERT: Devlin et al. 2019, arXiv:1810.04805, A.2)."""

    kind: Literal["linear"] = "linear"
    warmup_fraction: Warmup = 0.02
    final_fraction: float = Field(default=0.0, ge=0.0, le=1.0)

    def factor(self, progress: float) -> float:
        """What the peak learning rate is multiplied by; `progress` runs from 0 to 1."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        left = (1.0 - min(progress, 1.0)) / (1 - self.warmup_fraction)
        return self.final_fraction + (1 - self.final_fraction) * left


class Constant(Spec):
    """Linear warm-up, then the peak to the end."""

    kind: Literal["constant"] = "constant"
    warmup_fraction: Warmup = 0.02

    def factor(self, progress: float) -> float:
        """What the peak learning rate is multiplied by; `progress` runs from 0 to 1."""
        return progress / self.warmup_fraction if progress < self.warmup_fraction else 1.0


class InverseSqrt(Spec):
    """Linear warm-up, then as one over the square root of the step (Vaswani et al. 2017, arXiv:1706.03762, eq. 3).

    Their learning rate is d^-0.5 min(step^-0.5, step warmup^-1.5); its peak, at the end of the warm-up, is 1 here.
    """

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_fraction: float = Field(default=0.05, gt=0.0, le=0.5, description="linear, over this part of the run")

    def factor(self, progress: float) -> float:
        """What the peak learning rate is multiplied by; `progress` runs from 0 to 1."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        return math.sqrt(self.warmup_fraction / progress)


Schedule = Annotated[Cosine | WarmupStableDecay | Linear | Constant | InverseSqrt, Field(discriminator="kind")]
