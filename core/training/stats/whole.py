"""What an objective that looks at the whole batch has seen of it before its micro-batches are computed."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Seen:
    """The result of a first pass, without a gradient, and where in the batch a micro-batch stands."""

    found: Any
    first_row: int
