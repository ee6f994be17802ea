"""An export that is another model than the original is not left behind."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.models.directory import write_model_config
from core.models.export import MAX_DIVERGENCE, export, measure
from core.models.gguf import layout, vocabulary
from core.models.gguf.layout import TensorKind
from core.models.transformer import Transformer
from core.models.weights import save_weights
from tests.unit.core.models.tiny import Case, made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tokenizer, path = Tokenizer.bytes(), tmp_path / "model"
    config = Case("llama", {"hidden_size": 64}).config().model_copy(update={"vocab_size": tokenizer.vocab_size})
    path.mkdir()
    save_weights(made(config), path)
    write_model_config(path, config, pad=257, end_of_text=256, stop_ids=[256, 259])
    tokenizer.save(path)
    return path


@pytest.mark.parametrize("kind", MAX_DIVERGENCE)
def test_rounding_stays_within_its_bounds(kind: TensorKind, directory: Path, tmp_path: Path) -> None:
    drift = export(directory, tmp_path / "out.gguf", kind)
    assert (tmp_path / "out.gguf").stat().st_size > 10_000
    assert drift.divergence <= MAX_DIVERGENCE[kind]
    assert drift.agreement > {"F32": 0.999, "F16": 0.99, "Q8_0": 0.9, "Q4_0": 0.4}[kind]
    assert (drift.divergence < 1e-9) == (kind == "F32")


def test_what_drifts_is_refused_and_removed(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of queries and keys left as they are: the file is as good as any, and the model another."""
    monkeypatch.setattr(layout, "interleaved", lambda weights, heads: weights)
    with pytest.raises(
        InvalidData, match=r"the F16 file says something else than the model: .* nats a token"
    ) as refused:
        export(directory, tmp_path / "out.gguf", "F16")
    assert refused.value.code == "export_drifted"
    assert not (tmp_path / "out.gguf").exists()


def test_another_tokenizer_is_refused(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_of = vocabulary._tokens

    def exchanged(content: Any, size: int) -> tuple[list[str], list[int]]:
        tokens, types = tokens_of(content, size)
        return tokens[255::-1] + tokens[256:], types

    monkeypatch.setattr(vocabulary, "_tokens", exchanged)
    with pytest.raises(InvalidData, match="cuts texts otherwise"):
        export(directory, tmp_path / "out.gguf", "F16")
    assert not (tmp_path / "out.gguf").exists()


class Fixed(nn.Module):
    """A model whose logits are given."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(logits)

    def forward(self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, attend: object) -> torch.Tensor:
        return ids_BT

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.values.expand(*hidden.shape, -1)


def test_divergence_and_agreement_are_what_they_are_called() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = ln 2 - H(1/4) = 0.1308 nats."""
    one, two = Fixed([math.log(3.0), 0.0]), Fixed([0.0, 0.0])
    drift = measure(one, two, [[0, 0, 0], [0]])  # type: ignore[arg-type]
    assert drift.divergence == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert drift.agreement == 1.0
    assert measure(Fixed([0.0, 1.0]), one, [[0]]).agreement == 0.0  # type: ignore[arg-type]


def test_the_command_says_how_far_it_is(directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "core.models.export", str(directory), str(tmp_path / "m.gguf"), "--kind", "F16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "nats a token from the original" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)


def test_a_model_that_is_no_decoder_has_no_such_file(tmp_path: Path) -> None:
    config = Case("t5").config()
    save_weights(Transformer(config), tmp_path)
    write_model_config(tmp_path, config, pad=1, end_of_text=0, stop_ids=[0])
    with pytest.raises(InvalidData, match="a t5 model"):
        export(tmp_path, tmp_path / "out.gguf", "F16")
