"""Model families. One file each, and a family is data:

UNUSED          dimensions that it has no use for
PRESETS         sizes by name
ARCHITECTURES   the heads by the names of Hugging Face's classes; the first name for a head is written
shape           the configuration for given dimensions: the family's switches
read_config     Hugging Face's `config.json` to ours;   write_config   and back
names           where the weights stand in Hugging Face's files
deviation       standard deviation of a random matrix
"""

from types import ModuleType

from core.models.config import Dimensions, FamilyName, ModelConfig
from core.models.families import bert, gpt2, llama, qwen2, qwen3, roberta, t5, transformer

FAMILIES: dict[FamilyName, ModuleType] = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gpt2": gpt2,
    "bert": bert,
    "roberta": roberta,
    "transformer": transformer,
    "t5": t5,
}


def shape(family: FamilyName, dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    """The configuration of a language model of these dimensions.

    Raises:
        ValueError: the family has no use for one of them.
    """
    check_dimensions(family, dims)
    config: ModelConfig = FAMILIES[family].shape(dims, vocab_size=vocab_size)
    return config


def check_dimensions(family: FamilyName, dims: Dimensions) -> None:
    """
    Raises:
        ValueError: the family has no use for one of them.
    """
    for name in FAMILIES[family].UNUSED:
        if getattr(dims, name) != Dimensions.model_fields[name].default:
            raise ValueError(f"{family} has no use for {name}: leave it out")
