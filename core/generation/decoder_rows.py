"""What an encoder-decoder has computed of some answers: one row each, all of the same length.

The encoder runs once for each source. A decoder's keys and values of the source are kept from the first step, those of
the answer grow by one position a step. Rows are dropped, copied and reordered as whoever writes the answers wants.

B rows, S positions of the longest source, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.models.attention import Past, growing_attention, memory_attention, packed_attention
from core.models.transformer import Transformer


class DecoderRows:
    """Begins with one row for each source."""

    def __init__(self, model: Transformer, sources: Sequence[Sequence[int]], *, start: int) -> None:
        """`start`: the token that stands before every answer."""
        self._model = model
        device = model.model.embed_tokens.weight.device
        ids = [torch.tensor(source) for source in sources]
        ids_BS = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
        lengths_B = torch.tensor([len(source) for source in sources], device=device)
        positions_BS = torch.arange(ids_BS.shape[1], device=device).expand_as(ids_BS)
        self._segments_BS = (positions_BS < lengths_B[:, None]).long()
        attend = packed_attention(self._segments_BS, kind="math", see="all")
        self._memory_BSD: Tensor | None = model.encode(ids_BS, positions_BS, attend)
        self._of_source: Past = {}
        self._of_answer: Past = {}
        self.length = 0
        """positions of the answers that are computed, the start included"""
        self.logits_BV = self._step([start] * len(sources))

    def push(self, tokens: Sequence[int]) -> None:
        """Add a token to each row; `logits_BV` then says what may follow."""
        self.logits_BV = self._step(tokens)

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes what row `rows[i]` was."""
        at_B = torch.tensor(rows, device=self._segments_BS.device)
        self._segments_BS, self.logits_BV = self._segments_BS[at_B], self.logits_BV[at_B]
        for past in (self._of_source, self._of_answer):
            for layer, (keys, values) in past.items():
                past[layer] = keys[at_B], values[at_B]

    def _step(self, tokens: Sequence[int]) -> Tensor:
        """[B, V], fp32."""
        ids_B1 = torch.tensor(tokens, device=self._segments_BS.device)[:, None]
        hidden_B1D = self._model.decode(
            ids_B1,
            torch.full_like(ids_B1, self.length),
            growing_attention(self._of_answer),
            self._memory_BSD,
            memory_attention(self._of_source, self._segments_BS),
        )
        self._memory_BSD = None  # from now on its keys and values are enough
        self.length += 1
        logits_BV: Tensor = self._model.logits(hidden_B1D)[:, 0].float()
        return logits_BV
