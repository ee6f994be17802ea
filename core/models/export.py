"""The program `python -m core.models.export DIR FILE.gguf --kind Q8_0`: writes a GGUF file, reads it back, and scores
the same texts with both models. A file whose model says something else is deleted: nothing else would notice it.

Legend: T positions, V vocabulary.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.models.attention import packed_attention
from core.models.gguf import read, write
from core.models.gguf.layout import TensorKind
from core.models.transformer import Transformer
from core.models.weights import load_model

PROBE = (
    "The committee will meet on Thursday at 10:30 to discuss the budget for 2024.",
    "Once upon a time there was a fox who lived at the edge of a dark forest, and who could not sleep.",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 4))",
    "床前明月光 疑是地上霜 举头望明月 低头思故乡",
    "Die Lage ist ernst, aber nicht hoffnungslos; am Ende kam es anders, als alle gedacht hatten.",
    "Q: What is the capital of France?\nA: The capital of France is Paris.",
)
MAX_TOKENS = 256
MAX_DIVERGENCE: dict[TensorKind, float] = {"F32": 1e-5, "F16": 1e-3, "Q8_0": 0.02, "Q4_0": 0.5}
"""nats a token. Rounding stays well below; a tensor in the wrong place does not"""


@dataclass(frozen=True)
class Drift:
    """How far a copy of a model is from the original, over all positions of some texts."""

    divergence: float
    """mean of KL(original || copy), nats"""
    agreement: float
    """part of the positions at which both find the same token most likely"""


def export(
    directory: Path, target: Path, kind: TensorKind, *, name: str | None = None, probe: Iterable[str] = PROBE
) -> Drift:
    """Write `target` from a model's directory, and compare. `name`: what the file calls the model.

    Raises:
        InvalidData: it cannot be written (`cannot_export`), or what was written is another model (`export_drifted`).
    """
    write.export(directory, target, kind, name=name)
    try:
        with tempfile.TemporaryDirectory(prefix="weightsmith-") as scratch:
            read.convert(target, Path(scratch) / "model", dtype="F32")
            drift = _compare(directory, Path(scratch) / "model", list(probe))
        if not drift.divergence <= MAX_DIVERGENCE[kind]:
            raise InvalidData(
                f"the {kind} file says something else than the model: {drift.divergence:.3g} nats a token, "
                f"at most {MAX_DIVERGENCE[kind]:g} are due to rounding",
                code="export_drifted",
                hint="Choose a finer kind; if F16 drifts, too, the export is at fault.",
            )
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return drift


@torch.inference_mode()
def measure(original: Transformer, copy: Transformer, rows: Sequence[Sequence[int]]) -> Drift:
    """Of two decoders, over documents of token ids."""
    divergences, agreements = [], []
    for ids in rows:
        ours_TV, theirs_TV = (_logprobs(model, ids) for model in (original, copy))
        divergences.append((ours_TV.exp() * (ours_TV - theirs_TV)).sum(-1))
        agreements.append(ours_TV.argmax(-1) == theirs_TV.argmax(-1))
    return Drift(float(torch.cat(divergences).mean()), float(torch.cat(agreements).float().mean()))


def _compare(directory: Path, copy: Path, probe: list[str]) -> Drift:
    """
    Raises:
        InvalidData: the tokenizers differ.
    """
    tokenizer, again = Tokenizer.load(directory), Tokenizer.load(copy)
    rows = [tokenizer.encode(text) for text in probe]
    if rows != [again.encode(text) for text in probe]:
        raise InvalidData("the file's tokenizer cuts texts otherwise than the model's", code="export_drifted")
    original, other = load_model(directory).eval(), load_model(copy).eval()
    longest = min(MAX_TOKENS, original.config.context_length)
    return measure(original, other, [row[:longest] for row in rows])


def _logprobs(model: Transformer, ids: Sequence[int]) -> Tensor:
    ids_BT = torch.tensor([list(ids)])
    positions_BT = torch.arange(len(ids))[None]
    hidden_BTD = model(ids_BT, positions_BT, packed_attention(torch.ones_like(ids_BT), kind="math"))
    return model.logits(hidden_BTD)[0].float().log_softmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.models.export", description="Write a model as a GGUF file.")
    parser.add_argument("directory", type=Path, help="of the model")
    parser.add_argument("target", type=Path, help="a new file")
    parser.add_argument("--kind", choices=get_args(TensorKind), default="Q8_0", help="of the matrices")
    parser.add_argument("--name", help="what the file calls the model; default: the directory's name")
    arguments = parser.parse_args()
    try:
        if arguments.target.exists():
            raise InvalidData(f"{arguments.target} is there already", hint="Name a new file.")
        drift = export(arguments.directory, arguments.target, arguments.kind, name=arguments.name)
    except InvalidData as error:
        sys.exit(f"{error.message}. {error.hint or ''}".rstrip())
    sys.stdout.write(
        f"{arguments.target}: {drift.divergence:.3g} nats a token from the original, "
        f"the same first choice at {drift.agreement:.1%} of the positions\n"
    )


if __name__ == "__main__":
    main()
