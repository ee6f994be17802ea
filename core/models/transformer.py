"""The model: a decoder, an encoder, or both, with a head. One class for all of them: what a model has is data.

    decoder, encoder   hidden = model(ids, positions, attend)
    encoder-decoder    memory = model.encode(source, …);  hidden = model.decode(target, …, memory, …)
    head               model.logits(hidden), model.per_token(hidden), or model.per_example(hidden, segments)

Legend: B batch, T positions, S positions of the memory, D hidden size, V vocabulary, E examples of a row, C outputs.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.models.blocks import Attend, Stack
from core.models.config import ModelConfig
from core.models.families import FAMILIES
from core.models.heads import Head, Transform, pool
from core.models.shapes import shapes


class Transformer(nn.Module):
    """Vaswani et al. 2017, arXiv:1706.03762, and what became of it."""

    def __init__(self, config: ModelConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        if config.head in ("classifier", "tagger") and not config.labels:
            raise ValueError(f"the labels of the {config.head} are not known")
        self.config = config
        self.model = Stack(config, dropout, num_layers=config.num_layers)
        if config.kind == "encoder_decoder":
            self.encoder = Stack(config, dropout, num_layers=config.num_encoder_layers, is_second=True)
        if config.head == "language_model":
            self.transform = Transform(config) if config.kind == "encoder" else None
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.has_output_bias)
            self.tie()
        if config.num_outputs:
            self.head = Head(config, dropout)

    def tie(self) -> None:
        """Make the output matrix the embeddings' where it is so configured."""
        if self.config.head == "language_model" and self.config.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def recompute(self) -> None:
        """From now on, trade work for memory (`Stack.recomputes`)."""
        for module in self.modules():
            if isinstance(module, Stack):
                module.recomputes = True

    def forward(self, ids_BT: Tensor, positions_BT: Tensor, attend: Attend, types_BT: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, D] of a decoder or an encoder, after the final norm.

        Args:
            positions_BT: from 0 in each segment.
            types_BT: which of several texts a token belongs to, where the encoder has token types; None: all the first.
        """
        hidden_BTD: Tensor = self.model(self.model.embed(ids_BT, positions_BT, types_BT), positions_BT, attend)
        return hidden_BTD

    def encode(self, ids_BS: Tensor, positions_BS: Tensor, attend: Attend) -> Tensor:
        """The memory [B, S, D] of an encoder-decoder."""
        memory_BSD: Tensor = self.encoder(self.model.embed(ids_BS, positions_BS), positions_BS, attend)
        return memory_BSD

    def decode(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        attend: Attend,
        memory_BSD: Tensor | None,
        attend_memory: Attend,
    ) -> Tensor:
        """Hidden states [B, T, D] of an encoder-decoder's decoder.

        `memory_BSD` is None where `attend_memory` has kept its keys and values from an earlier call.
        """
        embedded_BTD = self.model.embed(ids_BT, positions_BT)
        hidden_BTD: Tensor = self.model(embedded_BTD, positions_BT, attend, memory_BSD, attend_memory)
        return hidden_BTD

    def features(self, hidden: Tensor) -> Tensor:
        """What the output matrix multiplies, for hidden states [..., D]."""
        if self.transform is not None:
            out: Tensor = self.transform(hidden)
            return out
        return hidden * self.config.hidden_size**-0.5 if self.config.embedding_scale == "output" else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] of hidden states [..., D]."""
        out: Tensor = self.lm_head(self.features(hidden))
        return out

    def per_token(self, hidden: Tensor) -> Tensor:
        """[..., C] of hidden states [..., D]: a tagger's labels; start and end of a span."""
        out: Tensor = self.head(hidden)
        return out

    def per_example(self, hidden_BTD: Tensor, segments_BT: Tensor, *, num_examples: int) -> Tensor:
        """[B, E, C]: a classifier's labels, a score, an embedding of length 1, or whether the next sentence follows.

        Example e of a row is its segment e + 1. Encoders pool the first token, decoders the last, embeddings all.
        """
        if self.config.head == "embedding":
            mean_BED = pool(hidden_BTD, segments_BT, num_examples=num_examples, how="mean")
            return functional.normalize(mean_BED, dim=-1)
        how: Literal["first", "last"] = "first" if self.config.kind == "encoder" else "last"
        out: Tensor = self.head(pool(hidden_BTD, segments_BT, num_examples=num_examples, how=how))
        return out

    @torch.no_grad()
    def initialise(self, seed: int, *, names: Collection[str] | None = None) -> None:
        """Draw all weights, or those named, from normal distributions as the family says (its `deviation`); norms begin
        at one, biases at zero."""
        generator = torch.Generator().manual_seed(seed)
        deviation = FAMILIES[self.config.family].deviation
        for name, parameter in self.named_parameters():
            if names is not None and name not in names:
                continue
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            else:
                drawn = torch.randn(parameter.shape, generator=generator) * deviation(self.config, name)
                parameter.copy_(drawn)


@torch.no_grad()
def resize_vocabulary(model: Transformer, vocab_size: int) -> None:
    """Change the number of tokens: rows are cut off, or added as the mean of those that are there."""
    model.config = model.model.config = model.config.model_copy(update={"vocab_size": vocab_size})
    wanted = shapes(model.config)
    for name, found in list(model.named_parameters()):
        if found.shape != wanted[name]:
            added = found.mean(0, keepdim=True).expand(max(vocab_size - len(found), 0), *found.shape[1:])
            module, _, kind = name.rpartition(".")
            setattr(model.get_submodule(module), kind, nn.Parameter(torch.cat((found[:vocab_size], added))))
    model.tie()
