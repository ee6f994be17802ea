"""`ModelConfig`: the shapes and switches of a model. No torch: the api counts parameters and checks dimensions."""

import math
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from core.models.shapes import shapes
from core.spec import Spec

FamilyName = Literal["llama", "qwen2", "qwen3", "gpt2", "bert", "roberta", "transformer", "t5"]
Kind = Literal["decoder", "encoder", "encoder_decoder"]
Head = Literal["language_model", "classifier", "tagger", "span", "score", "embedding"]


class Dimensions(Spec):
    """What a user may choose freely instead of a preset."""

    hidden_size: int = Field(ge=8, le=16384)
    num_layers: int = Field(ge=1, le=256)
    num_encoder_layers: int | None = Field(
        default=None, ge=1, le=256, description="of an encoder-decoder's encoder; default: num_layers"
    )
    num_heads: int = Field(ge=1, le=256)
    num_kv_heads: int | None = Field(default=None, ge=1, le=256, description="default: num_heads")
    head_dim: int | None = Field(default=None, ge=2, le=512, description="default: hidden_size / num_heads")
    intermediate_size: int | None = Field(
        default=None,
        ge=8,
        description="default: 4 hidden_size; where the layer is gated, 8/3 of it, up to a multiple of 32",
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
            raise ValueError("head_dim must be even: positions turn or number pairs of coordinates")
        return self


class ModelConfig(Spec):
    """Everything the forward pass needs to know, resolved: nothing here is optional. The defaults are Llama's."""

    family: FamilyName
    kind: Kind = "decoder"
    head: Head = "language_model"
    labels: tuple[str, ...] = ()
    """what a classifier or a tagger tells apart, in the order of its outputs; none: not known yet"""
    many_labels: bool = False
    """a classifier's labels are a yes or no each, not one of all"""
    next_sentence: bool = False
    """an encoder's language model that also says whether the second text follows the first"""

    vocab_size: int = Field(ge=2)
    hidden_size: int
    num_layers: int
    num_encoder_layers: int = 0
    """of an encoder-decoder's encoder"""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int

    tied_embeddings: bool
    embedding_scale: Literal["none", "input", "output"] = "none"
    """input: embeddings times sqrt(hidden_size). output: hidden states over sqrt(hidden_size), for the output matrix"""
    positions: Literal["rotary", "learned", "sinusoidal", "relative"] = "rotary"
    rope_theta: float
    position_offset: int = 0
    """rows of the learned positions before that of the first token"""
    token_types: int = 0
    """embeddings that say which of several texts a token belongs to"""

    norm: Literal["rms", "layer"] = "rms"
    norm_position: Literal["before", "after"] = "before"
    norm_eps: float
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True
    """the feed-forward layer multiplies its activation with a second projection"""
    biases: Literal["none", "qkv", "all"] = "none"
    """which linear layers of the blocks have one"""
    qk_norm: bool = False
    """queries and keys are normalised, each head by itself"""

    @model_validator(mode="after")
    def _head_fits(self) -> Self:
        if self.kind == "encoder_decoder" and self.head != "language_model":
            raise ValueError(f"an encoder-decoder ({self.family}) has no head {self.head!r}; it has language_model")
        if self.next_sentence and (self.kind != "encoder" or self.head != "language_model" or self.token_types < 2):
            raise ValueError(f"{self.family} with the head {self.head!r} does not predict the next sentence; bert does")
        if self.labels and self.head not in ("classifier", "tagger"):
            raise ValueError(f"the head {self.head!r} takes no labels, got {', '.join(self.labels)}")
        if len(self.labels) == 1 and self.head == "classifier" and not self.many_labels:
            raise ValueError(f"a classifier takes 2 or more labels, got only {self.labels[0]!r}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have the same name")
        return self

    @classmethod
    def from_dimensions(
        cls, family: FamilyName, dims: Dimensions, *, vocab_size: int, **switches: Any
    ) -> "ModelConfig":
        """Fill in what `dims` leaves open. `core.models.families.shape` calls it with the switches of a family.

        `vocab_size` counts every id the tokenizer can produce.
        """
        wide = math.ceil(dims.hidden_size * 8 / 3 / 32) * 32 if switches.get("gated", True) else 4 * dims.hidden_size
        has_encoder = switches.get("kind") == "encoder_decoder"
        given: dict[str, Any] = {
            "family": family,
            "vocab_size": vocab_size,
            "hidden_size": dims.hidden_size,
            "num_layers": dims.num_layers,
            "num_encoder_layers": (dims.num_encoder_layers or dims.num_layers) if has_encoder else 0,
            "num_heads": dims.num_heads,
            "num_kv_heads": dims.num_kv_heads or dims.num_heads,
            "head_dim": dims.head_dim or dims.hidden_size // dims.num_heads,
            "intermediate_size": dims.intermediate_size or wide,
            "context_length": dims.context_length,
            "tied_embeddings": dims.tied_embeddings,
            "rope_theta": dims.rope_theta,
            "norm_eps": dims.norm_eps,
        }
        return cls.model_validate(given | switches)

    def with_head(
        self, head: Head, *, labels: tuple[str, ...] = (), many_labels: bool = False, next_sentence: bool = False
    ) -> "ModelConfig":
        """The same model with another head.

        Raises:
            ValueError: the family has no such head, or the labels do not fit it.
        """
        new = {"head": head, "labels": labels, "many_labels": many_labels, "next_sentence": next_sentence}
        try:
            return ModelConfig.model_validate(self.model_dump() | new)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    @property
    def num_outputs(self) -> int:
        """Of the head that is not a language model's."""
        return {"classifier": len(self.labels), "tagger": len(self.labels), "span": 2, "score": 1}.get(
            self.head, 2 if self.next_sentence else 0
        )

    @property
    def is_pooled(self) -> bool:
        """Whether the head says something of a whole text rather than of each token."""
        return self.head in ("classifier", "score") or self.next_sentence

    @property
    def has_output_bias(self) -> bool:
        return self.kind == "encoder" or self.positions == "sinusoidal"

    def num_parameters(self) -> int:
        """Exact count of trainable numbers; a tied output matrix counts once."""
        return sum(math.prod(shape) for shape in shapes(self).values())
