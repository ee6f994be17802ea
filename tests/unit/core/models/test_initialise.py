"""Where weights begin."""

import math

import pytest
import torch

from core.models import families
from core.models.config import Dimensions
from core.models.transformer import Transformer, resize_vocabulary
from tests.unit.core.models.tiny import ALL, ENCODER_DECODERS, ENCODERS, Case, made, outputs, texts


@pytest.mark.parametrize("case", ALL, ids=str)
def test_initialisation_depends_on_the_seed_alone(case: Case) -> None:
    one, same, other = (Transformer(case.config()) for _ in range(3))
    one.initialise(1)
    torch.rand(5)  # the global generator has no say
    same.initialise(1)
    other.initialise(2)
    for (name, a), b in zip(one.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all()
        if a.dim() == 1:
            assert set(a.tolist()) == {0.0 if name.endswith("bias") else 1.0}, name
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        # D = 128, 8 layers, 4 heads of 32: sqrt(2 / 5D) = 0.0559; residual writers over sqrt(16)
        ("llama", {"model.embed_tokens": 0.0559, "mlp.up_proj": 0.0559, "mlp.down_proj": 0.01398, "o_proj": 0.01398}),
        ("gpt2", {"model.embed_tokens": 0.0559, "mlp.up_proj": 0.0559, "mlp.down_proj": 0.01398}),
        ("bert", {"model.embed_tokens": 0.02, "mlp.up_proj": 0.02, "mlp.down_proj": 0.02, "transform.dense": 0.02}),
        # embeddings D^-0.5; sqrt(2 / (128 + 128)) and sqrt(2 / (128 + 512))
        ("transformer", {"model.embed_tokens": 0.0884, "self_attn.q_proj": 0.0884, "mlp.up_proj": 0.0559}),
        # 1; (D K)^-0.5; D^-0.5; (H K)^-0.5; F^-0.5
        (
            "t5",
            {
                "model.embed_tokens": 1.0,
                "self_attn.q_proj": (128 * 32) ** -0.5,
                "self_attn.k_proj": 128**-0.5,
                "cross_attn.o_proj": 128**-0.5,
                "mlp.down_proj": 352**-0.5,
                "relative_bias": 128**-0.5,
            },
        ),
    ],
)
def test_matrices_begin_as_their_papers_say(family: families.FamilyName, expected: dict[str, float]) -> None:
    dims = Dimensions(hidden_size=128, num_layers=8, num_heads=4)
    model = Transformer(families.shape(family, dims, vocab_size=500))
    model.initialise(seed=0)
    for part, deviation in expected.items():
        found = [p.detach().flatten() for name, p in model.named_parameters() if name.endswith(f"{part}.weight")]
        together = torch.cat(found)
        tolerance = 5 / math.sqrt(len(together))
        assert float(together.std()) == pytest.approx(deviation, rel=max(0.01, tolerance)), part
        assert abs(float(together.mean())) < 5 * deviation / math.sqrt(len(together))


@pytest.mark.parametrize("case", [Case("llama", {"tied_embeddings": False}), *ENCODERS, *ENCODER_DECODERS], ids=str)
def test_a_vocabulary_can_grow_and_shrink(case: Case) -> None:
    model = made(case.config())
    ids_BT = texts(2, 9) % 40
    others = {"source_BS": ids_BT} if model.config.kind == "encoder_decoder" else {}
    [before] = outputs(model, ids_BT, **others)
    mean = model.model.embed_tokens.weight.mean(0)
    resize_vocabulary(model, 70)
    [grown] = outputs(model, ids_BT, **others)
    assert grown.shape[-1] == 70 == model.config.vocab_size
    torch.testing.assert_close(grown[..., :61], before)
    torch.testing.assert_close(model.model.embed_tokens.weight[65], mean)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tied_embeddings
    assert model.config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    resize_vocabulary(model, 40)
    torch.testing.assert_close(outputs(model, ids_BT, **others)[0], before[..., :40])
