"""Importing a model: a Hugging Face directory with safetensors becomes a model of a project. Nothing in it is run.

Only files whose names are known here are copied. What they hold is checked without tensors: `config.json` by a schema
of ours, the weights by their headers, the tokenizer by loading it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from core.adapters.spec import LoRA
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.jobs import registry
from core.jobs.ids import new_id, random_text
from core.jobs.registry import Servable, slug
from core.jobs.tables import Model, Project
from core.models.config import ModelConfig
from core.models.directory import read_model_config
from core.models.manifest import write_manifest
from core.models.names import check_shapes
from core.storage import Storage

TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_TEXT_BYTES = 64 << 20
MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class Imported:
    """A model in storage that has no row yet."""

    storage_key: str
    config: ModelConfig
    has_chat_template: bool
    manifest_sha256: str
    size_bytes: int
    adapter: LoRA | None = None
    base: Servable | None = None
    """what an adapter stands on"""


def copy_model(source: Path, storage: Storage, scratch: Path) -> Imported:
    """Check the directory and copy it into storage, with a manifest.

    Raises:
        InvalidData: it is no model that can be run here; the message says why.
    """
    config = read_model_config(source)
    for name in TEXTS:
        if (source / name).is_file() and (source / name).stat().st_size > MAX_TEXT_BYTES:
            raise InvalidData(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB", code="unsupported_model")
    tokenizer = Tokenizer.load(source)
    if tokenizer.vocab_size > config.vocab_size:
        raise InvalidData(
            f"the tokenizer knows {tokenizer.vocab_size} ids, config.json says {config.vocab_size}",
            code="unsupported_model",
        )
    names = _weight_files(source)
    shapes: dict[str, list[int]] = {}
    for name in names:
        shapes |= _shapes(source / name)
    check_shapes(config, shapes, code="unsupported_model")
    staging = scratch / "imports" / new_id("import_")
    try:
        model = staging / "model"
        model.mkdir(parents=True)
        for name in (*TEXTS, *names, *([INDEX] if names != [WEIGHTS] else [])):
            if (source / name).is_file():  # links are followed: the Hub's cache consists of them
                shutil.copyfile(source / name, model / name)
        manifest_sha256, size_bytes = write_manifest(staging, step=0)
        key = f"models/{new_id('model_')}"
        storage.put_directory(key, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported(key, config, tokenizer.chat_template is not None, manifest_sha256, size_bytes)


def add_imported(session: Session, project_id: str, imported: Imported, *, name: str) -> Model:
    """Its row: `im:{project}:{name}:{id8}`; what is trained from it is called after `name`."""
    project = session.get_one(Project, project_id)
    base = imported.base
    if base is not None:
        registry.hold(session, [base.object_id])
    row = Model(
        name=f"im:{slug(project.name)}:{slug(name)}:{random_text(8).lower()}",
        project_id=project_id,
        parent=base.name if base else None,
        stands_on=base.object_id if base else None,
        adapter=imported.adapter.model_dump(mode="json") if imported.adapter else None,
        root=base.root if base else slug(name),
        config=imported.config.model_dump(mode="json"),
        num_parameters=imported.config.num_parameters(),
        metrics={},
        has_chat_template=imported.has_chat_template,
        storage_key=imported.storage_key,
        manifest_sha256=imported.manifest_sha256,
        size_bytes=imported.size_bytes,
    )
    session.add(row)
    session.flush()
    return row


def _weight_files(source: Path) -> list[str]:
    if (source / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        names = sorted(set(json.loads((source / INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise InvalidData(
            f"the directory has neither {WEIGHTS} nor a usable {INDEX}",
            code="unsupported_model",
            hint="Weights in other formats (.bin, .pt) are not read: they can run code. Convert them to safetensors.",
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InvalidData(f"{INDEX} names {name!r}, which is no file of weights here", code="unsupported_model")
        if not (source / name).is_file():
            raise InvalidData(f"{name} is missing", code="unsupported_model")
    return [str(name) for name in names]


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file, after checking that its header tells the truth about its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise InvalidData(f"{path.name} is no safetensors file, or was cut off", code="unsupported_model")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: [int(n) for n in entry["shape"]] for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise InvalidData(f"{path.name} has a header that cannot be read", code="unsupported_model") from None
    if end != size - 8 - length:
        raise InvalidData(
            f"{path.name} has {size - 8 - length} bytes of weights, its header says {end}: it was cut off",
            code="unsupported_model",
        )
    return shapes
