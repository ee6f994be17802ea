"""Documents with holes: a source in which spans are replaced by sentinels, a target that tells what was there.

Both lie in lanes of their own. Windows are as long as a row's source and target allow, and as the sentinels suffice.
"""

from collections.abc import Sequence

import numpy as np

from core.data.draws import chosen, generator_for
from core.data.encodings.encoder import Encoder
from core.data.encodings.framing import windows
from core.data.encodings.text_pair import lanes
from core.data.examples import TokenExample
from core.data.packing import Ints
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData


def encode(texts: Sequence[str], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the tokenizer has no sentinels.
    """
    tokenizer, settings = encoder.tokenizer, encoder.encoding.settings
    if not tokenizer.sentinels:
        raise InvalidData(
            "the tokenizer has no sentinels, tokens that stand for the holes of a text",
            code="no_sentinels",
            param="model.tokenizer",
            hint="train a tokenizer here, all of them have sentinels, or take T5's",
        )
    density, mean_length = float(settings["density"]), float(settings["mean_length"])
    size = window_size(encoder.row, len(tokenizer.sentinels), density=density, mean_length=mean_length)
    seed = encoder.encoding.seed or 0

    def holes(window: list[int]) -> TokenExample:
        num_noise, num_spans = noise(len(window), density=density, mean_length=mean_length)
        random = generator_for(seed, np.asarray(window, np.int64).tobytes())
        kept = division(random, len(window) - num_noise, num_spans)
        return corrupted(window, kept, division(random, num_noise, num_spans), tokenizer)

    encoded = tokenizer.encode_batch(texts)
    return [[holes(window) for window in windows(ids, size) if len(window) > 1] for ids in encoded]


def noise(size: int, *, density: float, mean_length: float) -> tuple[int, int]:
    """Of a text of `size` tokens, how many are cut out, in how many spans; something stands before each span."""
    num_noise = min(max(round(size * density), 1), size - 1)
    return num_noise, min(max(round(num_noise / mean_length), 1), num_noise, size - num_noise)


def window_size(row: int, num_sentinels: int, *, density: float, mean_length: float) -> int:
    """The most tokens of which source and target fit a row each."""
    for size in range(2 * row, 2, -1):
        num_noise, num_spans = noise(size, density=density, mean_length=mean_length)
        source, target = size - num_noise + num_spans + 1, num_noise + num_spans + 1
        if source <= row and target <= row and num_spans <= num_sentinels:
            return size
    return 2


def division(random: np.random.Generator, total: int, parts: int) -> Ints:
    """`total` as a sum of `parts` positive numbers; every such sum is as likely."""
    cuts = 1 + chosen(random, parts - 1, total - 1)
    return np.diff(cuts, prepend=0, append=total)


def corrupted(window: list[int], kept: Ints, cut: Ints, tokenizer: Tokenizer) -> TokenExample:
    """Keep, cut out, keep, cut out, …, by these lengths."""
    source: list[int] = []
    target: list[int] = []
    at = 0
    for sentinel, stays, goes in zip(tokenizer.sentinels, kept.tolist(), cut.tolist(), strict=False):
        source += [*window[at : at + stays], sentinel]
        target += [sentinel, *window[at + stays : at + stays + goes]]
        at += stays + goes
    return lanes(source, target, tokenizer)
