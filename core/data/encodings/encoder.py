"""What tokenizing needs besides the examples."""

from dataclasses import dataclass

from pydantic import Field

from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.spec import Spec


class Encoding(Spec):
    """Everything but the tokenizer that decides what an example becomes; part of a token dataset's hash."""

    kind: str
    """which tokens the objective wants of an example: see the files beside this one"""
    model: str
    """decoder, encoder or encoder_decoder"""
    window: int | None = None
    """tokens of the windows that long texts are cut into, where a row must hold whole examples"""
    seed: int | None = None
    """where examples are corrupted once, and stored so"""
    labels: tuple[str, ...] = ()
    """names of what a label's numbers mean, in their order"""
    settings: dict[str, float | int | str] = Field(default_factory=dict)
    """the objective's own, where they decide the tokens"""


@dataclass(frozen=True)
class Encoder:
    tokenizer: Tokenizer
    renderer: Renderer
    encoding: Encoding

    @property
    def row(self) -> int:
        """Tokens that an example may have, of an objective that asks for windows."""
        assert self.encoding.window is not None
        return self.encoding.window
