"""Documents for masked language modelling: framed windows. Which tokens are hidden is drawn when they are shown."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.encodings.framing import frame_size, framed, windows
from core.data.examples import TokenExample
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData


def encode(texts: Sequence[str], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the tokenizer has no mask token.
    """
    tokenizer = encoder.tokenizer
    check_mask(tokenizer)
    size = encoder.row - frame_size(tokenizer)
    encoded = tokenizer.encode_batch(texts)
    return [[TokenExample((framed(tokenizer, window),)) for window in windows(ids, size)] for ids in encoded]


def check_mask(tokenizer: Tokenizer) -> None:
    if tokenizer.mask is None:
        raise InvalidData(
            "the tokenizer has no token that stands for a hidden one",
            code="no_mask_token",
            param="model.tokenizer",
            hint="name one as `mask_token` in tokenizer_config.json, or train a tokenizer here: all of them have one",
        )
