"""Importing an adapter: a PEFT directory becomes a model that stands on one of the project's. Nothing in it is run."""

import shutil
from pathlib import Path

from core.adapters.peft_config import BASE, CONFIG, WEIGHTS, AdapterBase
from core.adapters.peft_tensors import PeftTensors
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.jobs.ids import new_id
from core.jobs.model_import import MAX_TEXT_BYTES, Imported
from core.jobs.registry import Servable
from core.models.config import ModelConfig
from core.models.directory import CONFIG as MODEL_CONFIG
from core.models.directory import read_model_config
from core.models.manifest import write_manifest
from core.storage import Storage

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def copy_adapter(source: Path, storage: Storage, scratch: Path, *, base: Servable) -> Imported:
    """Check that the directory fits `base` and copy it into storage, with a manifest; a tokenizer that it lacks is the
    base's.

    Raises:
        InvalidData: it does not fit, or cannot be computed here; the message says why.
    """
    for name in (CONFIG, *TOKENIZER):
        if (source / name).is_file() and (source / name).stat().st_size > MAX_TEXT_BYTES:
            raise InvalidData(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB", code="unsupported_adapter")
    config = _config(source, base)
    peft = PeftTensors(source, config)
    for layer in peft.layers:
        peft.low_rank(layer)
    spec = peft.spec
    words = source if (source / "tokenizer.json").is_file() else storage.directory(base.storage_key) / "model"
    tokenizer = Tokenizer.load(words)
    if tokenizer.vocab_size > base.config.vocab_size:
        raise InvalidData(
            f"the adapter's tokenizer knows {tokenizer.vocab_size} ids, {base.name} has {base.config.vocab_size}: "
            "it was trained on a base with added tokens",
            code="unsupported_adapter",
            hint="Import that base and name it as `base`; or merge the adapter in `peft` and import the whole model.",
        )
    staging = scratch / "imports" / new_id("import_")
    try:
        model = staging / "model"
        model.mkdir(parents=True)
        for folder, names in ((source, (CONFIG, WEIGHTS)), (words, TOKENIZER)):
            for name in names:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, model / name)
        if (source / MODEL_CONFIG).is_file():
            shutil.copyfile(source / MODEL_CONFIG, model / MODEL_CONFIG)
        stands_on = AdapterBase(
            model=base.name,
            manifest_sha256=base.manifest_sha256,
            quantization=spec.quantization,
            double_quantization=spec.double_quantization,
        )
        (model / BASE).write_text(stands_on.model_dump_json(indent=2))
        manifest_sha256, size_bytes = write_manifest(staging, step=0)
        key = f"models/{new_id('model_')}"
        storage.put_directory(key, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported(
        storage_key=key,
        config=config,
        has_chat_template=tokenizer.chat_template is not None,
        manifest_sha256=manifest_sha256,
        size_bytes=size_bytes,
        base=base,
        adapter=spec,
    )


def _config(source: Path, base: Servable) -> ModelConfig:
    """Of the model that both make: the base's, unless the directory has one of its own, whose head may be another.

    Raises:
        InvalidData: the directory's is not the base's.
    """
    if not (source / MODEL_CONFIG).is_file():
        return base.config
    config = read_model_config(source)
    of_head = {"head", "labels", "many_labels", "next_sentence"}
    if config.model_dump(exclude=of_head) != base.config.model_dump(exclude=of_head):
        raise InvalidData(f"its {MODEL_CONFIG} is not that of {base.name}", code="unsupported_adapter")
    return config
