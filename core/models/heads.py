"""What stands on top of the hidden states besides the output matrix.

Legend: B batch, T positions, D hidden size, E examples of a row, C outputs.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from core.models.blocks import ACTIVATIONS, norm
from core.models.config import ModelConfig


class Transform(nn.Module):
    """What BERT does to a hidden state before the output matrix (in the code of Devlin et al. 2019)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = norm(config, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.norm(self.activation(self.dense(hidden)))
        return out


class Head(nn.Module):
    """`num_outputs` numbers of a hidden state; of a pooled one, encoders make tanh(W x) first (BERT's pooler)."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        is_pooled, is_encoder = config.is_pooled, config.kind == "encoder"
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if is_pooled and is_encoder else None
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(config.hidden_size, config.num_outputs, bias=is_encoder or not is_pooled)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.dense is not None:
            hidden = self.dense(hidden).tanh()
        out: Tensor = self.out(self.dropout(hidden))
        return out


def pool(
    hidden_BTD: Tensor, segments_BT: Tensor, *, num_examples: int, how: Literal["first", "last", "mean"]
) -> Tensor:
    """[B, E, D]: the first or last hidden state of each example, or their mean in fp32. Example e of a row is its
    segment e + 1; where a row has fewer examples, what stands at the others means nothing.
    """
    numbers_E = torch.arange(1, num_examples + 1, device=segments_BT.device)
    belongs_BET = segments_BT[:, None, :] == numbers_E[None, :, None]
    if how == "mean":
        weights_BET = belongs_BET.float()
        weights_BET = weights_BET / weights_BET.sum(-1, keepdim=True).clamp(min=1)
        return weights_BET @ hidden_BTD.float()
    # argmax finds the first of equal ones
    flags_BET = belongs_BET.byte()
    last = segments_BT.shape[1] - 1
    at_BE = flags_BET.argmax(-1) if how == "first" else last - flags_BET.flip(-1).argmax(-1)
    return hidden_BTD.gather(1, at_BE[..., None].expand(-1, -1, hidden_BTD.shape[-1]))
