"""A few texts that the model writes while it trains, for people to look at. Small and plain; serving is elsewhere.

Legend: B=1, T positions, H query heads, G key/value heads, K head width, V vocabulary.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from core.data.examples import TokenSequence
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.models.transformer import Transformer
from core.training import greedy

TEMPERATURE, TOP_K = 0.8, 50
MAX_DOCUMENT_PROMPT, MAX_PROMPT, MAX_NEW = 24, 256, 64


def write(
    model: Transformer,
    tokenizer: Tokenizer,
    held_out: TokenDataset | None,
    count: int,
    *,
    seed: int,
    sees_prefix: bool = False,
) -> Iterator[tuple[str, str]]:
    """(prompt, text) for the first validation documents. Always the same prompts: one sees the model learn.

    An encoder-decoder answers what its encoder reads. A model that writes no texts gives none.
    """
    if model.config.head != "language_model" or model.config.kind == "encoder" or held_out is None:
        return
    for index in range(min(count, len(held_out))):
        if model.config.kind == "encoder_decoder":
            answer = greedy.answer(model, tokenizer, [held_out[index].sequences[0].ids])[0]
            yield greedy.readable(held_out[index].sequences[0].ids, tokenizer), greedy.readable(answer, tokenizer)
            continue
        prompt = prompt_of(held_out[index].sequences[0])[-min(MAX_PROMPT, model.config.context_length - 1) :]
        ids = sample(
            model, prompt, max_tokens=MAX_NEW, stop_ids=tokenizer.stop_ids, seed=seed + index, sees_prefix=sees_prefix
        )
        yield tokenizer.decode(prompt), tokenizer.decode(ids)


def prompt_of(sequence: TokenSequence) -> list[int]:
    """What stands before the first learned token (a question); the beginning of a text, which is learned throughout."""
    first = next((at for at, weight in enumerate(sequence.weights) if weight > 0), len(sequence.ids))
    return sequence.ids[:first] if first > 1 else sequence.ids[:MAX_DOCUMENT_PROMPT]


@torch.no_grad()
def sample(
    model: Transformer,
    prompt: list[int],
    *,
    max_tokens: int,
    stop_ids: frozenset[int],
    seed: int,
    sees_prefix: bool = False,
) -> list[int]:
    """Continue `prompt`; draws from a generator of its own, so that training's random numbers are left alone.

    `sees_prefix`: all of the prompt is seen from everywhere in it.
    """
    device = model.lm_head.weight.device
    generator = torch.Generator().manual_seed(seed)
    past: dict[int, tuple[Tensor, Tensor]] = {}

    def meet(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
        if layer in past:
            k_BGTK, v_BGTK = torch.cat((past[layer][0], k_BGTK), 2), torch.cat((past[layer][1], v_BGTK), 2)
        past[layer] = k_BGTK, v_BGTK
        return functional.scaled_dot_product_attention(
            q_BHTK,
            k_BGTK,
            v_BGTK,
            is_causal=q_BHTK.shape[2] > 1 and not sees_prefix,
            enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1],
        )

    written: list[int] = []
    new, position = prompt, 0
    room = model.config.context_length - len(prompt)
    while len(written) < min(max_tokens, room):
        ids_BT = torch.tensor([new], device=device)
        positions_BT = torch.arange(position, position + len(new), device=device)[None]
        logits_V = model.logits(model(ids_BT, positions_BT, lambda layer: partial(meet, layer))[:, -1])[0].float().cpu()
        best_K, ids_K = (logits_V / TEMPERATURE).topk(min(TOP_K, len(logits_V)))
        chosen = int(ids_K[torch.multinomial(best_K.softmax(-1), 1, generator=generator)])
        if chosen in stop_ids:
            break
        written.append(chosen)
        position, new = position + len(new), [chosen]
    return written
