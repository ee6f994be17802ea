"""The Qwen3 family: Llama with normalised queries and keys (Yang et al. 2025, arXiv:2505.09388, section 2)."""

from typing import Any

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.families import llama
from core.models.families.llama import PRESETS, UNUSED, deviation, names

__all__ = ["ARCHITECTURES", "PRESETS", "UNUSED", "deviation", "names", "read_config", "shape", "write_config"]

ARCHITECTURES: dict[str, Head] = {
    "Qwen3ForCausalLM": "language_model",
    "Qwen3ForSequenceClassification": "classifier",
    "Qwen3ForTokenClassification": "tagger",
    "Qwen3ForQuestionAnswering": "span",
    "Qwen3Model": "embedding",
}
SWITCHES: dict[str, Any] = {"qk_norm": True}


class Given(llama.Given):
    head_dim: int | None = 128
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("qwen3", dims, vocab_size=vocab_size, **SWITCHES)


def read_config(config: dict[str, Any]) -> ModelConfig:
    return llama.read_kin(hugging_face.read(Given, config), ARCHITECTURES, family="qwen3", **SWITCHES)


def write_config(config: ModelConfig) -> dict[str, Any]:
    own = {"model_type": "qwen3", "use_sliding_window": False, "attention_bias": False}
    return llama.write_kin(config) | hugging_face.head_values(config, ARCHITECTURES) | own
