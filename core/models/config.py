"""`ModelConfig`: the shapes and switches of a decoder. No torch: the api counts parameters and checks dimensions."""

from typing import Literal, Self

from pydantic import Field, model_validator

from core.spec import Spec

Kind = Literal["decoder", "encoder", "encoder_decoder"]
Head = Literal["language_model", "classifier", "tagger", "span", "score", "embedding"]


class Dimensions(Spec):
    """What a user may choose freely instead of a preset."""

    hidden_size: int = Field(ge=8, le=16384)
    num_layers: int = Field(ge=1, le=256)
    num_heads: int = Field(ge=1, le=256)
    num_kv_heads: int | None = Field(default=None, ge=1, le=256, description="default: num_heads")
    head_dim: int | None = Field(default=None, ge=2, le=512, description="default: hidden_size / num_heads")
    intermediate_size: int | None = Field(
        default=None, ge=8, description="default: 8/3 of hidden_size, up to a multiple of 32"
    )
    context_length: int = Field(default=512, ge=8, le=1_048_576)
    tied_embeddings: bool = True
    rope_theta: float = Field(default=10000.0, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                "choose a multiple, or give head_dim"
            )
        kv = self.num_kv_heads or self.num_heads
        if self.num_heads % kv:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {kv}")
        if (self.head_dim or self.hidden_size // self.num_heads) % 2:
            raise ValueError("head_dim must be even: rotary embeddings turn pairs of coordinates")
        return self


class ModelConfig(Spec):
    """Everything the forward pass needs to know, resolved: nothing here is optional."""

    family: Literal["llama"]
    kind: Kind = "decoder"
    head: Head = "language_model"
    labels: tuple[str, ...] = ()
    """names of the head's outputs, where they have names"""
    vocab_size: int = Field(ge=2)
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    tied_embeddings: bool
    rope_theta: float
    norm_eps: float

    @classmethod
    def from_dimensions(cls, family: Literal["llama"], dims: Dimensions, *, vocab_size: int) -> "ModelConfig":
        """Fill in what `dims` leaves open. `vocab_size` counts every id the tokenizer can produce."""
        return cls(
            family=family,
            vocab_size=vocab_size,
            hidden_size=dims.hidden_size,
            num_layers=dims.num_layers,
            num_heads=dims.num_heads,
            num_kv_heads=dims.num_kv_heads or dims.num_heads,
            head_dim=dims.head_dim or dims.hidden_size // dims.num_heads,
            intermediate_size=dims.intermediate_size or -(-dims.hidden_size * 8 // 3 // 32) * 32,
            context_length=dims.context_length,
            tied_embeddings=dims.tied_embeddings,
            rope_theta=dims.rope_theta,
            norm_eps=dims.norm_eps,
        )

    def num_parameters(self) -> int:
        """Exact count of trainable numbers; a tied output matrix counts once."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        layer = attention + mlp + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * layer + self.hidden_size
