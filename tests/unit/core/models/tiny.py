"""Tiny models of every family and head, what they compute, and what `transformers` computes with the same weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from core.models import families
from core.models.attention import cross_attention, packed_attention
from core.models.config import Dimensions, FamilyName, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import save_weights

VOCABULARY = 61
LABELS = ("good", "bad", "ugly")


@dataclass(frozen=True)
class Case:
    """A family with dimensions, switches and a head."""

    family: FamilyName
    dims: dict[str, Any] = field(default_factory=dict)
    switches: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=lambda: {"head": "language_model"})
    num_layers: int = 2

    def __str__(self) -> str:
        values = [*self.dims.items(), *self.switches.items(), *self.head.items()]
        shown = [f"{value}" if isinstance(value, str) else f"{key}={value}" for key, value in values if key != "labels"]
        return "-".join([self.family, *shown])

    def config(self) -> ModelConfig:
        dims = Dimensions(**{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "context_length": 64} | self.dims)
        config = families.shape(self.family, dims, vocab_size=VOCABULARY)
        return config.model_copy(update=self.switches).with_head(**self.head)


DECODERS = [
    Case("llama"),
    Case("llama", {"tied_embeddings": False, "num_kv_heads": 2}),
    Case("llama", {"num_kv_heads": 1, "head_dim": 6, "intermediate_size": 40, "norm_eps": 1e-3, "rope_theta": 500.0}),
    Case("qwen2", {"num_kv_heads": 2}),
    Case("qwen3", {"num_kv_heads": 2, "head_dim": 16, "tied_embeddings": False}),
    Case("gpt2"),
    Case("gpt2", {"intermediate_size": 40}, {"activation": "relu"}),
]
ENCODERS = [
    Case("bert"),
    Case("bert", {"norm_eps": 1e-3}, {"activation": "relu", "token_types": 3}),
    Case("roberta"),
]
ENCODER_DECODERS = [
    Case("transformer"),
    Case("transformer", {"num_encoder_layers": 1}, {"activation": "silu", "embedding_scale": "none"}),
    Case("t5"),
    Case("t5", {"tied_embeddings": False, "head_dim": 16, "num_encoder_layers": 1}),
    Case("t5", {}, {"activation": "relu", "gated": False}),
]
HEADS: list[dict[str, Any]] = [
    {"head": "classifier", "labels": LABELS},
    {"head": "classifier", "labels": LABELS, "many_labels": True},
    {"head": "tagger", "labels": LABELS},
    {"head": "span"},
    {"head": "score"},
    {"head": "embedding"},
]
HEADED = [
    Case(family, head=head) for family in ("llama", "qwen2", "qwen3", "gpt2", "bert", "roberta") for head in HEADS
]
HEADED += [Case("bert", head={"head": "language_model", "next_sentence": True})]
LANGUAGE_MODELS = DECODERS + ENCODERS + ENCODER_DECODERS
ALL = LANGUAGE_MODELS + HEADED


def made(config: ModelConfig, seed: int = 3) -> Transformer:
    """Weights large enough for differences to show."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 0.2)
            else:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + noise * 0.1)
    return model.eval()


def exported(model: Transformer, directory: Path, **sharding: int) -> Path:
    save_weights(model, directory, **sharding)
    write_model_config(directory, model.config, pad=1, end_of_text=0, stop_ids=[0, 2])
    return directory


def texts(rows: int = 3, length: int = 17, seed: int = 0) -> Tensor:
    """Ids without 1, the padding's, whose embedding never gets a gradient in `transformers`."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def positions(segments_BT: Tensor) -> Tensor:
    """From 0 in each segment."""
    rows = [row.tolist() for row in segments_BT]
    return torch.tensor([[at - row.index(segment) for at, segment in enumerate(row)] for row in rows])


def hidden_states(
    model: Transformer,
    ids_BT: Tensor,
    segments_BT: Tensor | None = None,
    *,
    source_BS: Tensor | None = None,
    source_segments_BS: Tensor | None = None,
    types_BT: Tensor | None = None,
    kind: Any = "math",
) -> Tensor:
    """Of any model; rows are one document each where nothing else is said."""
    segments_BT = torch.ones_like(ids_BT) if segments_BT is None else segments_BT
    see: Any = "all" if model.config.kind == "encoder" else "before"
    attend = packed_attention(segments_BT, kind=kind, see=see)
    if model.config.kind != "encoder_decoder":
        hidden_BTD: Tensor = model(ids_BT, positions(segments_BT), attend, types_BT)
        return hidden_BTD
    assert source_BS is not None
    source_segments_BS = torch.ones_like(source_BS) if source_segments_BS is None else source_segments_BS
    attend_source = packed_attention(source_segments_BS, kind=kind, see="all")
    memory_BSD = model.encode(source_BS, positions(source_segments_BS), attend_source)
    attend_memory = cross_attention(segments_BT, source_segments_BS, kind=kind)
    return model.decode(ids_BT, positions(segments_BT), attend, memory_BSD, attend_memory)


def outputs(model: Transformer, ids_BT: Tensor, **inputs: Any) -> list[Tensor]:
    """All that the head says of rows of one document each."""
    hidden_BTD = hidden_states(model, ids_BT, **inputs)
    config, found = model.config, []
    if config.head == "language_model":
        found.append(model.logits(hidden_BTD))
    if config.head in ("tagger", "span"):
        found.append(model.per_token(hidden_BTD))
    if config.head == "embedding":
        found.append(hidden_BTD)  # `transformers` does not pool
    if config.is_pooled:
        found.append(model.per_example(hidden_BTD, torch.ones_like(ids_BT), num_examples=1)[:, 0])
    return found


def their_outputs(model: Any, ids_BT: Tensor, *, source_BS: Tensor | None = None, types_BT: Any = None) -> list[Tensor]:
    """The same of a model of `transformers`."""
    if source_BS is not None:
        said = model(input_ids=source_BS, decoder_input_ids=ids_BT)
    else:
        said = model(ids_BT, **({} if types_BT is None else {"token_type_ids": types_BT}))
    if "prediction_logits" in said:
        return [said.prediction_logits, said.seq_relationship_logits]
    if "start_logits" in said:
        return [torch.stack((said.start_logits, said.end_logits), -1)]
    return [said.logits if "logits" in said else said.last_hidden_state]


def theirs(directory: Path) -> Any:
    """Loaded by the class that `config.json` names, with nothing missing and nothing too many."""
    [name] = transformers.AutoConfig.from_pretrained(directory).architectures
    model, info = getattr(transformers, name).from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True
    )
    # An encoder alone is exported without the pooler, which nothing here uses.
    assert {key for key in info["missing_keys"] if not key.startswith("pooler.")} == set()
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def inputs(config: ModelConfig) -> dict[str, Tensor]:
    """What a model of this kind reads besides ids."""
    if config.kind == "encoder_decoder":
        return {"source_BS": texts(length=13, seed=1)}
    if config.token_types > 1:
        return {"types_BT": (torch.arange(17) > 8).long().expand(3, -1)}
    return {}
