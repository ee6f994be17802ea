"""Span corruption: an encoder reads a text with holes, a decoder writes what was in them.

    source   Thank you <X> me to your party <Y> week.
    target   <X> for inviting <Y> last
    L = - sum_t log p(target_t | target_<t, source)

15 % of the tokens are cut out, in spans of 3 tokens on average, each marked by a sentinel of its own. Raffel et al.
2019 (T5), arXiv:1910.10683, figure 2 and sections 3.1.4 and 3.3.4. Spans are drawn as by the authors' code: the text
begins outside a span, lengths are a uniformly random division, the target ends with end-of-text and not with one more
sentinel. The holes of a text are drawn once, from the seed and the text. Label smoothing and z-loss:
`core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Document
from core.data.packing import Predicts
from core.loss import TokenObjective
from core.models.config import Kind


class SpanCorruption(TokenObjective):
    """Pretraining an encoder-decoder on plain text."""

    kind: Literal["span_corruption"] = "span_corruption"
    density: float = Field(default=0.15, gt=0.0, lt=1.0, description="part of a text's tokens that is cut out")
    mean_length: float = Field(default=3.0, ge=1.0, le=64.0, description="tokens of a span, on average")

    consumes: ClassVar[tuple[type, ...]] = (Document,)
    models: ClassVar[tuple[Kind, ...]] = ("encoder_decoder",)
    predicts: ClassVar[Predicts] = ("same", "next")
    encoding: ClassVar[str] = "span_corruption"
    encoding_settings: ClassVar[tuple[str, ...]] = ("density", "mean_length")
    windows: ClassVar[bool] = True
