"""The training objectives. One file each; this union is the list."""

from typing import Annotated

from pydantic import Field

from core.objectives.causal_lm import CausalLM
from core.objectives.supervised import Supervised

Objective = Annotated[CausalLM | Supervised, Field(discriminator="kind")]
OBJECTIVES: dict[str, type[CausalLM] | type[Supervised]] = {
    "causal_lm": CausalLM,
    "supervised": Supervised,
}
