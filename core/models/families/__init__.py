"""Model families: a family is data (presets, how its `config.json` reads, its weight names). One file each."""

from core.models.families import llama

FAMILIES = {"llama": llama}
