"""Model families: a family is data (presets, how its `config.json` reads, its weight names). One file each."""

from types import ModuleType

from core.models.families import llama

FAMILIES: dict[str, ModuleType] = {"llama": llama}
