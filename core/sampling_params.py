"""How the next token is chosen: shared by generation requests and by the samples a training run shows."""

from pydantic import Field

from core.spec import Spec


class SamplingParams(Spec):
    """OpenAI's names and meanings, plus `top_k`. Temperature 0 is greedy."""

    max_tokens: int | None = Field(default=16, ge=0, description="None: what is left of the context")
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, description="0: no limit")
    seed: int | None = None
    stop: tuple[str, ...] = Field(default=(), max_length=4)
    n: int = Field(default=1, ge=1, le=16)
    logprobs: int | None = Field(default=None, ge=0, le=20, description="how many alternatives to report")
    echo: bool = False
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=300)
    num_beams: int = Field(default=1, ge=1, le=16, description="more than 1: beam search instead of drawing")
    length_penalty: float = Field(default=1.0, ge=-10.0, le=10.0, description="of beam search; more: longer answers")
