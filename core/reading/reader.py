"""`Reader`: a model that says something of texts, and its pass over many of them.

Legend: N rows, B rows computed together, T positions, D hidden size, C outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.batches import Lane
from core.data.encodings.encoder import Encoder, Encoding
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.generation.sampling import not_finite
from core.models.config import ModelConfig
from core.models.transformer import Transformer
from core.training.stats.forward import Forward

BATCH_TOKENS = 8192
"""padding included"""


class Interrupted(Exception):
    """Whoever asked is gone."""


@dataclass(frozen=True)
class Reader:
    model: Transformer
    tokenizer: Tokenizer
    renderer: Renderer
    is_unwanted: Callable[[], bool] = lambda: False
    """asked between batches"""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def encoder(self, window: int | None = None) -> Encoder:
        """Makes what training makes of texts, in windows of the model's context where nothing else is said."""
        window = min(window or self.config.context_length, self.config.context_length)
        encoding = Encoding(kind="plain", model=self.config.kind, window=window, labels=self.config.labels)
        return Encoder(self.tokenizer, self.renderer, encoding)

    def of_texts(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[N, C], fp32: what the head says of each whole text."""
        found: dict[int, Tensor] = {}
        for at, lane, hidden_BTD in self._passes(rows):
            out_BC = self.model.per_example(hidden_BTD, lane.segments_BT, num_examples=1)[:, 0]
            found.update(zip(at, _finite(out_BC), strict=True))
        return torch.stack([found[i] for i in range(len(rows))])

    def of_tokens(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """[T, C] of each row, fp32: what the head says of each token."""
        found: dict[int, Tensor] = {}
        for at, _, hidden_BTD in self._passes(rows):
            out_BTC = _finite(self.model.per_token(hidden_BTD))
            found.update((i, out_BTC[b, : len(rows[i])]) for b, i in enumerate(at))
        return [found[i] for i in range(len(rows))]

    def hidden_at(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Tensor]:
        """[places, D] of each row: final hidden states."""
        found: dict[int, Tensor] = {}
        for at, _, hidden_BTD in self._passes(rows):
            found.update((i, hidden_BTD[b, places[i]]) for b, i in enumerate(at))
        return [found[i] for i in range(len(rows))]

    def _passes(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Lane, Tensor]]:
        """Rows of about the same length together: which ones, as a lane, and their final hidden states [B, T, D]."""
        forward = Forward(self.model, None, precision="fp32", attention="sdpa", separator=self.tokenizer.separator)
        for at in _batches([len(row) for row in rows]):
            if self.is_unwanted():
                raise Interrupted
            lane = _lane([rows[i] for i in at], forward.device)
            yield at, lane, forward.hidden(self.model, lane)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The longest first; each batch has at most `BATCH_TOKENS`, or one row."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _lane(rows: Sequence[Sequence[int]], device: torch.device) -> Lane:
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths_B = torch.tensor([len(row) for row in rows], device=device)
    positions_BT = torch.arange(longest, device=device).expand(len(rows), -1)
    there_BT = positions_BT < lengths_B[:, None]
    return Lane(
        ids_BT=ids_BT,
        targets_BT=torch.zeros_like(ids_BT),
        weights_BT=there_BT.float(),
        positions_BT=positions_BT.where(there_BT, 0),
        segments_BT=there_BT.long(),
    )


def _finite(out: Tensor) -> Tensor:
    out = out.float().cpu()
    if not out.isfinite().all():
        raise not_finite()
    return out
