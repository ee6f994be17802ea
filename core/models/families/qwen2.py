"""The Qwen2 family, and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on queries, keys, values."""

from typing import Any

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.families import llama
from core.models.families.llama import PRESETS, UNUSED, deviation, names

__all__ = ["ARCHITECTURES", "PRESETS", "UNUSED", "deviation", "names", "read_config", "shape", "write_config"]

ARCHITECTURES: dict[str, Head] = {
    "Qwen2ForCausalLM": "language_model",
    "Qwen2ForSequenceClassification": "classifier",
    "Qwen2ForTokenClassification": "tagger",
    "Qwen2ForQuestionAnswering": "span",
    "Qwen2Model": "embedding",
}
SWITCHES: dict[str, Any] = {"biases": "qkv"}


class Given(llama.Given):
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("qwen2", dims, vocab_size=vocab_size, **SWITCHES)


def read_config(config: dict[str, Any]) -> ModelConfig:
    return llama.read_kin(hugging_face.read(Given, config), ARCHITECTURES, family="qwen2", **SWITCHES)


def write_config(config: ModelConfig) -> dict[str, Any]:
    own = {"model_type": "qwen2", "use_sliding_window": False}
    return llama.write_kin(config) | hugging_face.head_values(config, ARCHITECTURES) | own
