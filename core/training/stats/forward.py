"""A model's pass over a lane of a batch.

Legend: B rows, T positions, D hidden size, N positions that are learned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.adapters.attach import Attached
from core.data.batches import Lane
from core.loss import TokenStats
from core.models.attention import cross_attention, packed_attention
from core.models.transformer import Transformer
from core.training.likelihood import token_stats


@dataclass(frozen=True)
class Forward:
    """The model that is trained, the one it is compared with, and how both compute."""

    model: Transformer
    reference: Transformer | None
    """frozen"""
    precision: Literal["bf16", "fp32"]
    attention: Literal["math", "sdpa"]
    compiled: bool = False
    adapter: Attached | None = None
    """where the model is compared with its own base, from which this sets it apart"""
    separator: int = -1
    """stands behind the first of two texts that an encoder reads"""

    @contextmanager
    def other(self) -> Iterator[Transformer | None]:
        """The model that the trained one is compared with, if any; within, there is no gradient and no dropout."""
        with torch.no_grad():
            if self.adapter is None:
                yield self.reference
                return
            is_training = self.model.training
            with self.adapter.off():
                yield self.model.eval()
            self.model.train(is_training)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products; weights and everything else are fp32."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def hidden(
        self, model: Transformer, lane: Lane, *, source: Lane | None = None, prefix_BT: Tensor | None = None
    ) -> Tensor:
        """Final hidden states [B, T, D]. All of a text is seen from everywhere in an encoder.

        Args:
            source: what the encoder of an encoder-decoder reads.
            prefix_BT: positions that all of their segment may see (`packed_attention`).
        """
        see: Literal["all", "before"] = "all" if model.config.kind == "encoder" else "before"
        attend = packed_attention(lane.segments_BT, kind=self.attention, see=see, prefix_BT=prefix_BT)
        types_BT = self.types(lane) if model.config.token_types > 1 else None
        with self.autocast(lane):
            if source is None:
                hidden_BTD: Tensor = model(lane.ids_BT, lane.positions_BT, attend, types_BT)
            else:
                read = packed_attention(source.segments_BT, kind=self.attention, see="all")
                memory_BSD = model.encode(source.ids_BT, source.positions_BT, read)
                across = cross_attention(lane.segments_BT, source.segments_BT, kind=self.attention)
                hidden_BTD = model.decode(lane.ids_BT, lane.positions_BT, attend, memory_BSD, across)
        return hidden_BTD

    def types(self, lane: Lane) -> Tensor:
        """1 behind the first separator of each segment, else 0 (Devlin et al. 2019, section 3): [B, T]."""
        separators_BT = (lane.ids_BT == self.separator).long()
        before_BT = separators_BT.cumsum(1) - separators_BT
        first_BT = torch.arange(lane.ids_BT.shape[1], device=lane.ids_BT.device) - lane.positions_BT
        return (before_BT > before_BT.gather(1, first_BT.clamp(min=0))).long()

    def learned(
        self,
        model: Transformer,
        lane: Lane,
        *,
        hidden_BTD: Tensor | None = None,
        with_mean: bool = False,
        with_entropy: bool = False,
    ) -> tuple[TokenStats, Tensor]:
        """Likelihoods of the lane's learned targets, and where they stand: [N] into the flattened lane.

        Args:
            hidden_BTD: final hidden states, where they are known already.
            with_mean, with_entropy: as in `token_stats`.
        """
        learned_N = lane.weights_BT.flatten().nonzero()[:, 0]
        hidden_BTD = self.hidden(model, lane) if hidden_BTD is None else hidden_BTD
        with self.autocast(lane):
            features_ND = model.features(hidden_BTD.flatten(0, 1)[learned_N])
        stats = token_stats(
            features_ND,
            model.lm_head.weight,
            lane.targets_BT.flatten()[learned_N],
            lane.weights_BT.flatten()[learned_N],
            bias_V=model.lm_head.bias,
            dtype=self.dtype,
            with_mean=with_mean,
            with_entropy=with_entropy,
            compiled=self.compiled,
        )
        return stats, learned_N

    def autocast(self, lane: Lane) -> torch.autocast:
        device = lane.ids_BT.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16")
