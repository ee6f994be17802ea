"""torch's random numbers, which dropout draws from: read and put back, so that a run resumes with the same ones."""

import torch
from torch import Tensor


def read() -> dict[str, Tensor]:
    """The states of the generators in use, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Put back what `read` gave; a device that is not here is left out."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(states["cuda"])
