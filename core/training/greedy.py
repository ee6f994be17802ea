"""What an encoder-decoder makes of a few sources: at each place the most probable token, many sources together.

Legend: B sources, S positions of the longest source.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.models.attention import Past, growing_attention, memory_attention, packed_attention
from core.models.transformer import Transformer

MAX_NEW = 128


@torch.no_grad()
def answer(
    model: Transformer, tokenizer: Tokenizer, sources: Sequence[Sequence[int]], *, max_tokens: int = MAX_NEW
) -> list[list[int]]:
    """Ids of each answer, without the end. Answers do not depend on how sources are grouped, up to rounding."""
    device = model.lm_head.weight.device
    ids_BS, segments_BS = _padded(sources, model.config.context_length, device)
    positions_BS = torch.arange(ids_BS.shape[1], device=device).expand_as(ids_BS)
    memory_BSD = model.encode(ids_BS, positions_BS, packed_attention(segments_BS, kind="math", see="all"))
    kept: Past = {}
    attend, across = growing_attention({}), memory_attention(kept, segments_BS)
    written: list[list[int]] = [[] for _ in sources]
    open_B = torch.ones(len(sources), dtype=torch.bool, device=device)
    last_B = torch.full((len(sources),), tokenizer.pad, device=device)
    stop_ids = torch.tensor(sorted(tokenizer.stop_ids), device=device)
    for position in range(min(max_tokens, model.config.context_length)):
        positions_B1 = torch.full((len(sources), 1), position, device=device)
        memory = None if kept else memory_BSD
        hidden_B1D = model.decode(last_B[:, None], positions_B1, attend, memory, across)
        last_B = model.logits(hidden_B1D[:, 0]).argmax(-1)
        open_B = open_B & ~torch.isin(last_B, stop_ids)
        if not open_B.any():
            break
        for row in open_B.nonzero()[:, 0].tolist():
            written[row].append(int(last_B[row]))
    return written


def readable(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text, with sentinels by their names."""
    shown = set(tokenizer.sentinels)
    parts: list[list[int]] = [[]]
    for id in ids:
        parts[-1].append(id)
        if id in shown:
            parts.append([])
    names = [tokenizer.token_bytes(part[-1]).decode() if part and part[-1] in shown else "" for part in parts]
    return "".join(tokenizer.decode(part) + name for part, name in zip(parts, names, strict=True))


def _padded(sources: Sequence[Sequence[int]], most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids, and 1 where there is one."""
    cut = [torch.tensor(source[:most], dtype=torch.int64) for source in sources]
    ids_BS = torch.nn.utils.rnn.pad_sequence(cut, batch_first=True)
    there_BS = torch.nn.utils.rnn.pad_sequence([torch.ones_like(source) for source in cut], batch_first=True)
    return ids_BS.to(device), there_BS.to(device)
