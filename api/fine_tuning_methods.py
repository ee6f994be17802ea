"""OpenAI's methods of fine-tuning: their hyperparameters, and the objective that each of them means."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.graders import Grader
from core.spec import Spec

COPIES = 8
"""answers to each prompt, which `compute_multiplier` multiplies"""
EFFORTS = {"low": 128, "medium": 256, "high": 512}
"""tokens of an answer"""

Auto = Literal["auto"]


class Hyperparameters(Spec):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=65536)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0.0, le=1000.0)] = "auto"


class Supervised(Spec):
    hyperparameters: Hyperparameters = Hyperparameters()

    @property
    def objective(self) -> dict[str, Any]:
        return {"kind": "supervised"}


class DPOHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0.0, le=2.0)] = "auto"


class DPO(Spec):
    hyperparameters: DPOHyperparameters = DPOHyperparameters()

    @property
    def objective(self) -> dict[str, Any]:
        beta = self.hyperparameters.beta
        return {"kind": "dpo"} if beta == "auto" else {"kind": "dpo", "beta": beta}


class ReinforcementHyperparameters(Hyperparameters):
    compute_multiplier: Auto | Annotated[float, Field(gt=0.0, le=32.0)] = "auto"
    """answers to each prompt of a batch, in units of 8"""
    eval_interval: Auto | Annotated[int, Field(ge=1)] = "auto"
    """steps"""
    eval_samples: Auto | Annotated[int, Field(ge=1, le=64)] = "auto"
    """answers to each prompt of the validation file"""
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    """how long an answer may be: 128, 256 (the default) or 512 tokens"""


class Reinforcement(Spec):
    grader: Grader
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()

    @property
    def objective(self) -> dict[str, Any]:
        chosen = self.hyperparameters
        made: dict[str, Any] = {"kind": "grpo", "grader": self.grader.model_dump(mode="json")}
        if chosen.compute_multiplier != "auto":
            made["copies"] = max(2, round(COPIES * chosen.compute_multiplier))
        if chosen.eval_samples != "auto":
            made["validation_copies"] = chosen.eval_samples
        if chosen.reasoning_effort != "default":
            made["max_tokens"] = EFFORTS[chosen.reasoning_effort]
        return made


class Method(Spec):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: DPO | None = None
    reinforcement: Reinforcement | None = None

    @model_validator(mode="after")
    def _settings_of_its_type(self) -> Self:
        if self.type == "reinforcement" and self.reinforcement is None:
            raise ValueError('`reinforcement` needs its settings; give at least {"grader": {…}}')
        given = {name for name in ("supervised", "dpo", "reinforcement") if getattr(self, name) is not None}
        if wrong := given - {self.type}:
            raise ValueError(
                f"the type is {self.type!r}, but `{wrong.pop()}` is given; give `{self.type}` its settings"
            )
        return self

    @property
    def given(self) -> Supervised | DPO | Reinforcement | None:
        return self.supervised or self.dpo or self.reinforcement

    @property
    def settings(self) -> Supervised | DPO | Reinforcement:
        return self.given or (DPO() if self.type == "dpo" else Supervised())
