"""GGUF files that are written here: what was in the directory is in the file, where llama.cpp looks for it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from core.data.special_tokens import SPECIALS
from core.data.tokenizer import Tokenizer
from core.data.words import word_splitter
from core.errors import InvalidData
from core.models.config import FamilyName
from core.models.directory import read_model_config, write_model_config
from core.models.gguf.layout import TensorKind
from core.models.gguf.read import convert
from core.models.gguf.write import export
from core.models.transformer import Transformer
from core.models.weights import load_model, save_weights
from tests.unit.core.models.tiny import Case, exported, hidden_states, made

TEXT = "hello world 12 tests, don't you? HELLO   hello\n\nworld"
CASES = [
    Case("llama", {"hidden_size": 64, "num_kv_heads": 2, "tied_embeddings": False}),
    Case("llama", {"hidden_size": 64, "head_dim": 32}),
    Case("qwen2", {"hidden_size": 64, "num_kv_heads": 2}),
    Case("qwen3", {"hidden_size": 64, "num_kv_heads": 2, "head_dim": 32, "tied_embeddings": False}),
    Case("gpt2", {"hidden_size": 64}),
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """As they are trained here."""
    hf = tokenizers.Tokenizer(tokenizers.models.BPE())
    hf.pre_tokenizer = word_splitter()
    hf.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator([TEXT] * 50, trainer)
    return Tokenizer.of(hf)


def directory(path: Path, case: Case, tokenizer: Tokenizer, *, spare_rows: int = 3) -> Path:
    config = case.config().model_copy(update={"vocab_size": tokenizer.vocab_size + spare_rows})
    path.mkdir()
    save_weights(made(config), path)
    stops = sorted(tokenizer.stop_ids)
    write_model_config(path, config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops)
    tokenizer.save(path)
    return path


def logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval().logits(hidden_states(model, torch.tensor([ids])))[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_written_and_read_again_no_bit_has_changed(case: Case, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = directory(tmp_path / "first", case, tokenizer)
    export(first, tmp_path / "first.gguf", "F32")
    convert(tmp_path / "first.gguf", tmp_path / "second")
    one, two = load_file(first / "model.safetensors"), load_file(tmp_path / "second" / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert read_model_config(tmp_path / "second") == read_model_config(first)
    again = Tokenizer.load(tmp_path / "second")
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.decode(again.encode(TEXT)) == TEXT
    assert again.specials == tokenizer.specials
    assert (again.chat_template, again.pad, again.end_of_text) == (
        tokenizer.chat_template,
        tokenizer.pad,
        tokenizer.end_of_text,
    )
    assert again.stop_ids == tokenizer.stop_ids
    export(tmp_path / "second", tmp_path / "second.gguf", "F32", name="first")
    assert (tmp_path / "second.gguf").read_bytes() == (tmp_path / "first.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_rounded_once_is_not_rounded_again(
    case: Case, kind: TensorKind, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first = directory(tmp_path / "first", case, tokenizer)
    export(first, tmp_path / "first.gguf", kind)
    convert(tmp_path / "first.gguf", tmp_path / "second", dtype="F32")
    export(tmp_path / "second", tmp_path / "second.gguf", kind)
    convert(tmp_path / "second.gguf", tmp_path / "third", dtype="F32")
    two, three = (load_file(tmp_path / name / "model.safetensors") for name in ("second", "third"))
    for name in two:
        torch.testing.assert_close(two[name], three[name], rtol=1e-3 if kind == "Q4_0" else 0, atol=0)
    one = load_file(first / "model.safetensors")
    # Half of the distance between two values: ten bits of mantissa; blocks of 32 in steps of max/127 and max/8.
    allowed = {"F16": 2**-11, "Q8_0": 1 / 254, "Q4_0": 1 / 8}[kind]
    for name, tensor in one.items():
        error = (two[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= allowed * 1.01, name
        if tensor.dim() == 1:
            assert torch.equal(two[name], tensor), name
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "first.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == kind
    assert kinds["token_embd.weight"] == ("Q8_0" if kind == "Q4_0" else kind)
    assert kinds["output_norm.weight"] == "F32"


def test_q8_0_is_what_the_format_says(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Blocks of 32: a half-precision scale of max/127, then 32 bytes, round(x / scale)."""
    first = directory(tmp_path / "first", CASES[0], tokenizer)
    export(first, tmp_path / "first.gguf", "Q8_0")
    [found] = [t for t in gguf.GGUFReader(tmp_path / "first.gguf").tensors if t.name == "blk.1.ffn_down.weight"]
    weights = load_file(first / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    blocks = np.asarray(found.data).reshape(-1, 34)
    scales = blocks[:, :2].copy().view(np.float16)[:, 0]
    wide = weights.reshape(-1, 32)
    expected = np.abs(wide).max(1) / 127
    assert np.array_equal(scales, expected.astype(np.float16))
    assert np.array_equal(blocks[:, 2:].view(np.int8), np.round(wide / expected[:, None]).astype(np.int8))


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Case("bert"), "a bert model with the head language_model cannot be written"),
        (Case("llama", head={"head": "score"}), "a llama model with the head score cannot be written"),
    ],
    ids=str,
)
def test_what_has_no_place_is_refused(case: Case, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=said) as refused:
        export(exported(made(case.config()), tmp_path), tmp_path / "out.gguf", "F16")
    assert refused.value.code == "cannot_export"
    assert not (tmp_path / "out.gguf").exists()


def test_a_tokenizer_without_a_name_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = directory(tmp_path / "first", CASES[0], tokenizer)
    content = json.loads((first / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+"
    (first / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InvalidData, match="no name in GGUF stands for this tokenizer's pre-tokenizer"):
        export(first, tmp_path / "out.gguf", "F16")
    assert not (tmp_path / "out.gguf").exists()


def test_the_tokenizer_of_bytes_can_be_written(tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    export(directory(tmp_path / "first", CASES[0], tokenizer), tmp_path / "first.gguf", "Q8_0")
    convert(tmp_path / "first.gguf", tmp_path / "second")
    assert Tokenizer.load(tmp_path / "second").encode("Grüße") == tokenizer.encode("Grüße")


def test_the_command_goes_both_ways(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = directory(tmp_path / "first", CASES[0], tokenizer)
    command = [sys.executable, "-m", "core.models.gguf"]
    subprocess.run([*command, str(first), str(tmp_path / "m.gguf"), "--kind", "F16"], check=True)
    subprocess.run([*command, str(tmp_path / "m.gguf"), str(tmp_path / "second")], check=True)
    assert read_model_config(tmp_path / "second") == read_model_config(first)
    refused = subprocess.run([*command, str(first), str(tmp_path / "m.gguf")], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "m.gguf is there already. name a new file" in refused.stderr


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_llama_cpp_answers_with_it(family: FamilyName, kind: TensorKind, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Greedy, with the probabilities that our model gives."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("pip install --no-deps xllamacpp")
    case = next(case for case in CASES if case.family == family)
    first = directory(tmp_path / "first", case, tokenizer)
    export(first, tmp_path / "first.gguf", kind)
    convert(tmp_path / "first.gguf", tmp_path / "second", dtype="F32")
    ids = tokenizer.encode(TEXT)
    expected = logits(load_model(tmp_path / "second"), ids)[-1].log_softmax(-1)
    answer = first_token(tmp_path / "first.gguf", TEXT)
    assert answer["prompt_tokens"] == len(ids)
    best = expected.topk(5)
    tolerance = 2e-3 if kind == "F32" else 0.15  # theirs rounds GELU to half precision, and activations to 8 bits
    for rank, found in enumerate(answer["top"]):
        assert found["logprob"] == pytest.approx(float(expected[found["id"]]), abs=tolerance)
        if kind == "F32":
            assert found["id"] == int(best.indices[rank])


def first_token(model: Path, prompt: str) -> dict[str, Any]:
    """What llama.cpp says, in a process of its own: it speaks much and ends hard."""
    program = f"""
import json, sys, xllamacpp as x
params = x.CommonParams()
params.model.path = {str(model)!r}
params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 64, 1, 1, False
server = x.Server(params)
said = server.handle_completions(
    {{"prompt": {prompt!r}, "max_tokens": 1, "n_predict": 1, "temperature": -1.0, "n_probs": 5, "logprobs": 5}}
)
print("ANSWER", json.dumps(said))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")] or [done.stderr[-2000:]]
    said = json.loads(line.removeprefix("ANSWER "))
    [first] = said["choices"][0]["logprobs"]["content"]
    return {"prompt_tokens": said["usage"]["prompt_tokens"], "top": first["top_logprobs"]}
