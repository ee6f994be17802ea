"""A checkpoint is whole or not there, and what was altered is never loaded."""

import errno
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from core.child import failure
from core.data.tokenizer import Tokenizer
from core.errors import StorageFull
from core.models import manifest
from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer
from core.models.weights import load_model
from core.optimizers import AdamW
from core.training import checkpoint, optimizers
from core.training.checkpoint import CorruptCheckpoint, Progress, SavedCheckpoint
from tests.unit.core.training.conftest import VOCAB, Killed

PROGRESS = Progress(micro_batch=4, step=7, tokens=99, seconds=1.5, best=-2.0, skipped_steps=[3], metrics={"a": 0.1})
MADE_WITH: dict[str, str | int] = {"torch": "9.9", "threads": 2}
Save = Callable[[Path], SavedCheckpoint]


@pytest.fixture
def model() -> Transformer:
    dims = Dimensions(hidden_size=16, num_layers=2, num_heads=2, context_length=16)
    decoder = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=VOCAB))
    decoder.initialise(0)
    return decoder


@pytest.fixture
def optimizer(model: Transformer) -> torch.optim.Optimizer:
    """With moments."""
    built = optimizers.build(AdamW(), model)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    built.step()
    return built


@pytest.fixture
def save(model: Transformer, optimizer: torch.optim.Optimizer) -> Save:
    def save_to(path: Path) -> SavedCheckpoint:
        return checkpoint.save(
            path, model=model, optimizer=optimizer, tokenizer=Tokenizer.bytes(), progress=PROGRESS, made_with=MADE_WITH
        )

    return save_to


def test_all_of_it_comes_back(save: Save, model: Transformer, optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    torch.manual_seed(5)
    saved = save(tmp_path / "a")
    expected = torch.rand(3)
    again = load_model(saved.path / "model")
    rebuilt = optimizers.build(AdamW(), again)
    assert checkpoint.load(saved.path, model=again, optimizer=rebuilt) == (PROGRESS, MADE_WITH)
    assert torch.equal(torch.rand(3), expected)
    for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other)
        assert optimizer.state[parameter].keys() == rebuilt.state[other].keys()
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, rebuilt.state[other][key])
            assert rebuilt.state[other][key].data_ptr() % 64 == 0


def test_the_manifest_names_every_file(save: Save, tmp_path: Path) -> None:
    saved = save(tmp_path / "a")
    text = (saved.path / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == saved.manifest_sha256
    content = json.loads(text)
    assert content["step"] == 7
    assert content["created"].endswith("+00:00")
    files = {str(file.relative_to(saved.path)): file for file in saved.path.rglob("*") if file.is_file()}
    assert {entry["name"] for entry in content["files"]} == files.keys() - {"manifest.json"}
    assert saved.size_bytes == sum(file.stat().st_size for file in files.values())
    assert {"model/config.json", "model/tokenizer.json", "model/chat_template.jinja"} < files.keys()
    checkpoint.verify(saved.path, manifest_sha256=saved.manifest_sha256)


def test_transformers_loads_the_model_and_knows_where_to_stop(save: Save, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    directory = save(tmp_path / "a").path / "model"
    config = AutoModelForCausalLM.from_pretrained(directory).generation_config
    own = Tokenizer.load(directory)
    assert (config.eos_token_id, config.pad_token_id) == (sorted(own.stop_ids), own.pad)


def every_file(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_a_file_that_was_altered_is_noticed(save: Save, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    saved = save(tmp_path / "a")
    for file in every_file(saved.path):
        shutil.copytree(saved.path, tmp_path / "b")
        harmed = tmp_path / "b" / file.relative_to(saved.path)
        harm(harmed)
        with pytest.raises(CorruptCheckpoint, match=harmed.name) as refused:
            checkpoint.verify(tmp_path / "b", manifest_sha256=saved.manifest_sha256)
        assert failure(refused.value).code == "checkpoint_corrupt"
        shutil.rmtree(tmp_path / "b")


def test_a_generator_looks_at_the_model_alone(save: Save, tmp_path: Path) -> None:
    saved = save(tmp_path / "a")
    flip(saved.path / "state" / "optimizer.safetensors")
    checkpoint.verify(saved.path, manifest_sha256=saved.manifest_sha256, below="model/")
    flip(saved.path / "model" / "model.safetensors")
    with pytest.raises(CorruptCheckpoint):
        checkpoint.verify(saved.path, manifest_sha256=saved.manifest_sha256, below="model/")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"files": [{}]}', b"\xff"])
def test_a_manifest_that_is_none_is_refused(save: Save, tmp_path: Path, text: bytes) -> None:
    saved = save(tmp_path / "a")
    (saved.path / "manifest.json").write_bytes(text)
    with pytest.raises(CorruptCheckpoint, match="manifest"):
        checkpoint.verify(saved.path, manifest_sha256=hashlib.sha256(text).hexdigest())


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The kernel refuses to write larger ones (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes(path: Path) -> set[int]:
    return {file.stat().st_size for file in every_file(path)}


def test_wherever_space_ends_nothing_is_left_and_the_older_one_is_whole(save: Save, tmp_path: Path) -> None:
    older = save(tmp_path / "older")
    for size in sorted(sizes(older.path)):
        with files_up_to(size - 1), pytest.raises(StorageFull) as refused:
            save(tmp_path / "newer")
        assert refused.value.retryable
        assert [path.name for path in tmp_path.iterdir()] == ["older"]
    checkpoint.verify(older.path, manifest_sha256=older.manifest_sha256)
    save(tmp_path / "newer")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_by_each_of_its_names(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def sync(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(manifest, "sync", sync)
    with pytest.raises(StorageFull):
        save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_is_not_a_full_one(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(manifest, "sync", sync)
    with pytest.raises(OSError, match="Input/output") as failed:
        save(tmp_path / "a")
    assert not isinstance(failed.value, StorageFull)
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_of_a_save(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name stands for a whole checkpoint or for nothing; debris does not hinder the next save."""
    moments = [(manifest, "sync"), (checkpoint, "save_file"), (checkpoint, "write_manifest"), (Path, "rename")]
    whole = 0
    for where, name in [*moments, (checkpoint, "sync")]:
        for nth in range(20):
            calls: list[int] = []
            real = getattr(where, name)

            def die(*args: Any, real: Any = real, calls: list[int] = calls, nth: int = nth, **named: Any) -> Any:
                calls.append(1)
                if len(calls) > nth:
                    raise Killed
                return real(*args, **named)

            with monkeypatch.context() as patch:
                patch.setattr(where, name, die)
                try:
                    save(tmp_path / "a")
                except Killed:
                    pass
                else:
                    whole += 1
            if (tmp_path / "a").exists():
                checkpoint.verify(tmp_path / "a", manifest_sha256=None)
                shutil.rmtree(tmp_path / "a")
            if len(calls) <= nth:
                break
    assert whole == 5  # each moment was tried until the save came through
    saved = save(tmp_path / "a")
    checkpoint.verify(saved.path, manifest_sha256=saved.manifest_sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_in_it_is_a_pickle(save: Save, tmp_path: Path) -> None:
    for file in every_file(save(tmp_path / "a").path):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                assert list(opened.keys())
        else:
            file.read_text(encoding="utf-8")


def test_a_hash_of_weights_sees_a_single_bit(save: Save, model: Transformer, tmp_path: Path) -> None:
    before = checkpoint.weights_sha256(save(tmp_path / "a").path / "model")
    assert checkpoint.weights_sha256(save(tmp_path / "b").path / "model") == before
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nextafter(model.model.norm.weight[0], torch.tensor(2.0))
    assert checkpoint.weights_sha256(save(tmp_path / "c").path / "model") != before
