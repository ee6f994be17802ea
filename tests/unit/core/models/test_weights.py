"""Directories in and out: what `transformers` wrote loads, and what is broken or unknown is refused by name."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import InvalidData
from core.models import families
from core.models.config import Dimensions, FamilyName, ModelConfig
from core.models.directory import WEIGHTS, read_model_config, write_model_config
from core.models.names import check_shapes, stored_tensors
from core.models.transformer import Transformer
from core.models.weights import load_model, save_weights
from tests.unit.core.models.conftest import Make
from tests.unit.core.models.tiny import ALL, LABELS, LANGUAGE_MODELS, Case, exported, hidden_states, made, texts


@pytest.fixture
def directory(make: Make, tmp_path: Path) -> Path:
    save_weights(make(), tmp_path)
    write_model_config(tmp_path, make().config, pad=1, end_of_text=0, stop_ids=[0])
    return tmp_path


def edit(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_changes_no_bit(make: Make, tmp_path: Path, tied: bool) -> None:
    model = make(tied_embeddings=tied)
    save_weights(model, tmp_path)
    write_model_config(tmp_path, model.config, pad=1, end_of_text=0, stop_ids=[0])
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    again = load_model(tmp_path, dropout=0.5)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert all(parameter.data_ptr() % 64 == 0 for parameter in again.parameters())


def test_weights_come_in_the_dtype_that_is_asked_for(directory: Path) -> None:
    assert {p.dtype for p in load_model(directory, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(directory: Path, values: dict[str, Any], named: str) -> None:
    edit(directory, **values)
    with pytest.raises(InvalidData, match=named) as refused:
        read_model_config(directory)
    assert refused.value.code == "unsupported_model"


def test_keys_that_change_nothing_are_ignored(directory: Path) -> None:
    before = read_model_config(directory)
    edit(directory, transformers_version="99", use_cache=False, pretraining_tp=1)
    assert read_model_config(directory) == before


def test_both_spellings_of_the_rotary_base_are_read(directory: Path) -> None:
    edit(directory, rope_parameters=None, rope_theta=12345.0)
    assert read_model_config(directory).rope_theta == 12345.0
    edit(directory, rope_parameters={"rope_type": "default", "rope_theta": 777.0}, rope_theta=None)
    assert read_model_config(directory).rope_theta == 777.0


def broken(directory: Path, how: str) -> None:
    weights = directory / "model.safetensors"
    content = weights.read_bytes()
    match how:
        case "truncated":
            weights.write_bytes(content[: len(content) // 2])
        case "absurd header":
            weights.write_bytes(struct.pack("<Q", 1 << 60) + content[8:])
        case "empty":
            weights.write_bytes(b"")
        case "gone":
            weights.unlink()
        case "other shape":
            edit(directory, intermediate_size=8)
        case "tensor missing":
            edit(directory, num_hidden_layers=3)
        case "index leads outside":
            weights.rename(directory.parent / "outside.safetensors")
            index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "how",
    ["truncated", "absurd header", "empty", "gone", "other shape", "tensor missing", "index leads outside"],
)
def test_broken_weights_are_refused(directory: Path, how: str) -> None:
    broken(directory, how)
    with pytest.raises(InvalidData) as refused:
        load_model(directory)
    assert refused.value.code == "corrupt_model"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_presets_grow_from_about_a_million(family: FamilyName) -> None:
    presets = families.FAMILIES[family].PRESETS
    sizes = [families.shape(family, dims, vocab_size=8192).num_parameters() for dims in presets.values()]
    assert list(presets) == ["nano", "micro", "mini", "small", "medium", "large", "xl"][: len(presets)]
    assert sizes == sorted(sizes)
    assert 0.8e6 < sizes[0] < 2.5e6
    assert sizes[-1] > 0.18e9
    if family == "llama":
        assert 0.8e9 < sizes[-1] < 1.3e9


@pytest.mark.parametrize("case", LANGUAGE_MODELS, ids=str)
def test_shards_are_no_larger_than_asked_for(case: Case, tmp_path: Path) -> None:
    model = made(case.config())
    exported(model, tmp_path, max_shard_bytes=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    tensors = {file.name: load_file(file) for file in files}
    assert index["weight_map"] == {name: file for file, held in tensors.items() for name in held}
    sizes = [sum(tensor.nbytes for tensor in held.values()) for held in tensors.values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert all(size <= 20_000 or len(held) == 1 for size, held in zip(sizes, tensors.values(), strict=True))
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert all(parameter.is_contiguous() for parameter in again.parameters())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_an_import_knows_the_shapes_without_tensors(case: Case, tmp_path: Path) -> None:
    config = case.config()
    shapes = {
        name: list(tensor.shape) for name, tensor in load_file(exported(made(config), tmp_path) / WEIGHTS).items()
    }
    check_shapes(config, shapes, code="unsupported_model")
    name = stored_tensors(config)["model.layers.1.self_attn.v_proj.weight"].names[0]
    with pytest.raises(InvalidData, match=f"lack {re.escape(name)}"):
        check_shapes(config, {key: shape for key, shape in shapes.items() if key != name}, code="unsupported_model")
    with pytest.raises(InvalidData, match=r"config\.json says"):
        check_shapes(config, shapes | {name: [1, *shapes[name]]}, code="unsupported_model")


HEADED_FROM: list[tuple[FamilyName, dict[str, Any], dict[str, Any], set[str]]] = [
    # family, head in the directory, head asked for, what is drawn anew
    ("llama", {"head": "language_model"}, {"head": "classifier", "labels": LABELS}, {"head.out.weight"}),
    ("llama", {"head": "classifier", "labels": LABELS}, {"head": "language_model"}, set()),
    ("llama", {"head": "tagger", "labels": LABELS}, {"head": "score"}, {"head.out.weight"}),
    ("bert", {"head": "language_model"}, {"head": "embedding"}, set()),
    (
        "bert",
        {"head": "language_model"},
        {"head": "classifier", "labels": LABELS},
        {"head.dense.weight", "head.dense.bias", "head.out.weight", "head.out.bias"},
    ),
    (
        "bert",
        {"head": "language_model", "next_sentence": True},
        {"head": "classifier", "labels": LABELS},
        {"head.out.weight", "head.out.bias"},  # the pooler is there
    ),
    (
        "bert",
        {"head": "classifier", "labels": LABELS},
        {"head": "classifier", "labels": ("a", "b", "c")},
        {"head.out.weight", "head.out.bias"},
    ),
    ("bert", {"head": "classifier", "labels": LABELS}, {"head": "classifier", "labels": LABELS}, set()),
    (
        "roberta",
        {"head": "embedding"},
        {"head": "language_model"},
        {
            "transform.dense.weight",
            "transform.dense.bias",
            "transform.norm.weight",
            "transform.norm.bias",
            "lm_head.bias",
        },
    ),
]


@pytest.mark.parametrize(("family", "there", "asked", "drawn"), HEADED_FROM)
def test_a_head_that_the_directory_lacks_is_drawn_from_the_seed(
    family: FamilyName, there: dict[str, Any], asked: dict[str, Any], drawn: set[str], tmp_path: Path
) -> None:
    before = made(Case(family, head=there).config())
    exported(before, tmp_path)
    one, same, other = (load_model(tmp_path, seed=seed, **asked) for seed in (1, 1, 2))
    assert one.config == before.config.with_head(**asked)
    known = dict(before.named_parameters())
    kept = {n for n, p in one.named_parameters() if n in known and torch.equal(p, known[n])}
    assert {name for name, _ in one.named_parameters()} - kept == drawn
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    for name in drawn:
        parameter = one.get_parameter(name)
        assert parameter.isfinite().all()
        assert torch.equal(parameter, other.get_parameter(name)) == (parameter.dim() == 1), name


@pytest.mark.parametrize(
    ("family", "asked", "message"),
    [
        ("t5", {"head": "classifier", "labels": LABELS}, "no head 'classifier'"),
        ("roberta", {"head": "language_model", "next_sentence": True}, "does not predict the next sentence"),
        ("llama", {"head": "language_model", "next_sentence": True}, "does not predict the next sentence"),
        ("bert", {"head": "classifier", "labels": ("one",)}, "2 or more labels, got only 'one'"),
        ("bert", {"head": "span", "labels": LABELS}, "takes no labels, got good"),
        ("bert", {"head": "tagger", "labels": ("a", "a")}, "same name"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(family: FamilyName, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case(family).config().with_head(**asked)


def test_labels_that_are_not_known_yet_make_no_model(tmp_path: Path) -> None:
    config = Case("bert").config().with_head("classifier")  # as a job is stored before its data is read
    assert ModelConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="labels of the classifier are not known"):
        Transformer(config)
    exported(made(config.with_head("classifier", labels=LABELS)), tmp_path)
    assert load_model(tmp_path, head="classifier").config.labels == LABELS


@pytest.mark.parametrize(
    ("family", "dims", "named"),
    [
        ("bert", {"num_kv_heads": 2}, "num_kv_heads"),
        ("gpt2", {"rope_theta": 500.0}, "rope_theta"),
        ("llama", {"num_encoder_layers": 2}, "num_encoder_layers"),
        ("transformer", {"norm_eps": 1e-3}, "norm_eps"),
    ],
)
def test_a_dimension_that_a_family_has_no_use_for_is_refused(
    family: FamilyName, dims: dict[str, Any], named: str
) -> None:
    given = Dimensions(**{"hidden_size": 32, "num_layers": 2, "num_heads": 4} | dims)
    with pytest.raises(ValueError, match=f"{family} has no use for {named}"):
        families.shape(family, given, vocab_size=61)
    again = Dimensions.model_validate(given.model_copy(update=dict.fromkeys(dims)).model_dump(exclude_none=True))
    families.shape(family, again, vocab_size=61)  # stored with its defaults, it is still what it was


def test_the_window_of_mistral_bounds_its_context(directory: Path) -> None:
    edit(directory, architectures=["MistralForCausalLM"], sliding_window=16)
    config = read_model_config(directory)
    assert (config.family, config.context_length) == ("llama", 16)
    edit(directory, architectures=["Qwen2ForCausalLM"], sliding_window=16, use_sliding_window=False)
    assert read_model_config(directory).context_length == 64


def test_configurations_stored_before_there_were_families_are_still_read() -> None:
    stored = {
        "family": "llama", "vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
        "head_dim": 8, "intermediate_size": 96, "context_length": 64, "tied_embeddings": True, "rope_theta": 1e4,
        "norm_eps": 1e-5,
    }  # fmt: skip
    assert ModelConfig.model_validate(stored) == Case("llama", {"num_kv_heads": 2}).config()


@pytest.mark.parametrize("old", [{"weight": "gamma", "bias": "beta"}])
def test_files_that_were_once_tensorflows_are_read(old: dict[str, str], tmp_path: Path) -> None:
    model = made(Case("bert").config())
    tensors = load_file(exported(model, tmp_path) / WEIGHTS)
    renamed = {
        f"{name.rpartition('.')[0]}.{old[name.rpartition('.')[2]]}" if "LayerNorm" in name else name: tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / WEIGHTS)
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", ["BertForNextSentencePrediction"])
def test_next_sentence_predictors_are_classifiers(name: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
    )
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    assert (ours.config.head, ours.config.labels) == ("classifier", ("LABEL_0", "LABEL_1"))
    said = ours.per_example(hidden_states(ours, texts()), torch.ones_like(texts()), num_examples=1)[:, 0]
    torch.testing.assert_close(said, theirs(texts()).logits)
