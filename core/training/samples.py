"""A few texts that the model writes while it trains, for people to look at. Small and plain; serving is elsewhere.

Legend: B=1, T positions, H query heads, G key/value heads, K head width, V vocabulary.
"""

import torch
from torch import Tensor

from core.models.transformer import Decoder

TEMPERATURE, TOP_K = 0.8, 50


@torch.no_grad()
def sample(model: Decoder, prompt: list[int], *, max_tokens: int, stop_ids: frozenset[int], seed: int) -> list[int]:
    """Continue `prompt`; draws from a generator of its own, so that training's random numbers are left alone."""
    device = model.lm_head.weight.device
    generator = torch.Generator().manual_seed(seed)
    past: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
        if layer in past:
            k_BGTK, v_BGTK = torch.cat((past[layer][0], k_BGTK), 2), torch.cat((past[layer][1], v_BGTK), 2)
        past[layer] = k_BGTK, v_BGTK
        return torch.nn.functional.scaled_dot_product_attention(
            q_BHTK, k_BGTK, v_BGTK, is_causal=q_BHTK.shape[2] > 1, enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1]
        )

    written: list[int] = []
    new, position = prompt, 0
    room = model.config.context_length - len(prompt)
    while len(written) < min(max_tokens, room):
        ids_BT = torch.tensor([new], device=device)
        positions_BT = torch.arange(position, position + len(new), device=device)[None]
        logits_V = model.logits(model(ids_BT, positions_BT, attend)[:, -1])[0].float().cpu()
        best_K, ids_K = (logits_V / TEMPERATURE).topk(min(TOP_K, len(logits_V)))
        chosen = int(ids_K[torch.multinomial(best_K.softmax(-1), 1, generator=generator)])
        if chosen in stop_ids:
            break
        written.append(chosen)
        position, new = position + len(new), [chosen]
    return written
