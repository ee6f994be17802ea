"""Every family and head against `transformers`: what we write it reads, what it writes we read, and both compute the
same logits (fp32, relative 1e-5 and absolute 2e-5) and gradients (absolute 1e-4, and 2e-5 of
the tensor's largest)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from core.models.directory import read_model_config
from core.models.names import stored_tensors
from core.models.weights import load_model
from tests.unit.core.models.tiny import ALL, HEADED, LABELS, Case, exported, inputs, made, outputs, texts, their_outputs
from tests.unit.core.models.tiny import theirs as loaded_by_transformers


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=2e-5)


def loss(outputs: list[Tensor]) -> Tensor:
    """Anything that depends on all of it, differently on each number."""
    weights = [torch.linspace(-1, 1, out.numel()).view(out.shape).sin() for out in outputs]
    return torch.stack([(out.tanh() * weight).sum() for out, weight in zip(outputs, weights, strict=True)]).sum()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_what_we_write_computes_the_same_there(case: Case, tmp_path: Path) -> None:
    config = case.config()
    ours = made(config)
    theirs = loaded_by_transformers(exported(ours, tmp_path))
    assert read_model_config(tmp_path) == config
    ids_BT, others = texts(), inputs(config)
    own, other = outputs(ours, ids_BT, **others), their_outputs(theirs, ids_BT, **others)
    assert min(float(out.detach().std()) for out in own) > 0.05  # else equality would say little
    assert_same(own, other)
    loss(own).backward()  # type: ignore[no-untyped-call]
    loss(other).backward()  # type: ignore[no-untyped-call]
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    compared = 0
    for name, stored in stored_tensors(config).items():
        theirs_is = next((their_gradients[key] for key in stored.names if key in their_gradients), None)
        if theirs_is is None:
            assert name == "lm_head.bias"  # Marian keeps it as a buffer
            continue
        theirs_is = theirs_is.T if stored.transposed else theirs_is
        mine = ours.get_parameter(name).grad
        assert mine is not None, name
        part, rows = stored.part[0], len(mine)
        theirs_is = theirs_is[part * rows : (part + 1) * rows]
        furthest, largest = float((mine - theirs_is).abs().max()), float(theirs_is.abs().max())
        assert furthest < 1e-4 + 2e-5 * largest, f"{name}: {furthest} of {largest}"
        compared += 1
    assert compared >= len(stored_tensors(config)) - 1


def hugging_face_config(case: Case) -> Any:
    """Of their own making: only what has no default there."""
    size = {"vocab_size": 61, "initializer_range": 0.3}
    usual = size | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    match case.family:
        case "llama":
            return transformers.LlamaConfig(**usual, num_key_value_heads=2)
        case "qwen2":
            return transformers.Qwen2Config(**usual, num_key_value_heads=2)
        case "qwen3":
            return transformers.Qwen3Config(**usual, num_key_value_heads=2, head_dim=8)
        case "gpt2":
            return transformers.GPT2Config(**size, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
        case "bert":
            return transformers.BertConfig(**usual)
        case "roberta":
            return transformers.RobertaConfig(**usual, max_position_embeddings=66)
        case "transformer":
            return transformers.MarianConfig(
                vocab_size=61, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=1,
                decoder_start_token_id=1, init_std=0.3, scale_embedding=True, activation_function="swish",
            )  # fmt: skip
        case "t5":
            gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if case.dims else {}
            return transformers.T5Config(
                vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=1, num_heads=4,
                decoder_start_token_id=0, **gated,
            )  # fmt: skip


ARCHITECTURES = [
    *((Case(case.family, head=case.head), case) for case in HEADED),
    *((Case(family), Case(family)) for family in ("llama", "qwen2", "qwen3", "gpt2", "bert", "roberta", "transformer")),
    *((Case("t5", dims), Case("t5", dims)) for dims in ({}, {"tied_embeddings": False})),
]


@pytest.mark.parametrize("case", [case for case, _ in ARCHITECTURES], ids=str)
@pytest.mark.parametrize("shard", ["100MB", "20KB"])
def test_what_transformers_writes_computes_the_same_here(case: Case, shard: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs_config = hugging_face_config(case)
    if case.head["head"] in ("classifier", "tagger"):
        theirs_config.id2label = dict(enumerate(LABELS))
    if case.head["head"] == "score":
        theirs_config.num_labels = 1
    if case.head.get("many_labels"):
        theirs_config.problem_type = "multi_label_classification"
    theirs_config.pad_token_id = 1
    theirs = getattr(transformers, exported_architecture(case))(theirs_config).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)  # they begin at 0, where an exchange would not show
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    ours = load_model(tmp_path).eval()
    wanted = case.config()
    assert (ours.config.family, ours.config.head, ours.config.labels) == (case.family, wanted.head, wanted.labels)
    assert ours.config.many_labels == wanted.many_labels
    assert ours.config.num_parameters() == sum(parameter.numel() for parameter in ours.parameters())
    ids_BT, others = texts(), inputs(ours.config)
    with torch.no_grad():
        assert_same(outputs(ours, ids_BT, **others), their_outputs(theirs, ids_BT, **others))


def exported_architecture(case: Case) -> str:
    """The class that has the head."""
    from core.models.families import FAMILIES

    [name] = FAMILIES[case.family].write_config(case.config())["architectures"]
    return str(name)
