"""Importing an adapter: a PEFT directory becomes a model that stands on one of the project's. Nothing in it is run."""

import shutil
from pathlib import Path

from core.adapters.peft_check import fitting
from core.adapters.peft_config import BASE, CONFIG, WEIGHTS, AdapterBase
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.jobs.ids import new_id
from core.jobs.model_import import MAX_TEXT_BYTES, Imported
from core.jobs.registry import Servable
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
    spec = fitting(source, base.config)
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
        config=base.config,
        has_chat_template=tokenizer.chat_template is not None,
        manifest_sha256=manifest_sha256,
        size_bytes=size_bytes,
        base=base,
        adapter=spec,
    )
