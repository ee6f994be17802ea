"""Previews: what training would see of a file, token by token, before anything is trained."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body
from pydantic import Field, model_validator
from sqlalchemy.orm import Session

import core
from api.dependencies import Provided, Services, Writer
from core.data.detection import reads
from core.data.formats import FORMATS, FormatName
from core.data.preview import MAX_ROWS, PreviewRequest
from core.errors import CapacityExceeded, InvalidData, InvalidRequest, NotFound
from core.job_spec import Reference, check_fit
from core.jobs import files, registry
from core.jobs.submit import BYTES
from core.jobs.tables import File
from core.models.config import Kind, ModelConfig
from core.objectives import OBJECTIVES, Objective
from core.run_dir import InputFile
from core.settings import machine_environment
from core.spec import Spec

router = APIRouter(prefix="/v1/files", tags=["files"])
log = logging.getLogger(__name__)
SECONDS = 30.0
USUAL_LENGTH = 512
_previewing = threading.BoundedSemaphore(2)


class PreviewBody(Spec):
    """Which model would read the file, and how it would be trained."""

    model: Reference | None = Field(default=None, description="a model, whose tokenizer and chat template are taken")
    tokenizer: Reference | None = Field(
        default=None, description="in the place of a model: a tokenizer's id, a model's name, or `bytes`"
    )
    objective: Objective | None = Field(default=None, description="default: the first that fits the file's format")
    format: Literal["auto"] | FormatName = "auto"
    sequence_length: int | None = Field(default=None, ge=8, le=1_048_576, description="tokens of a training row")
    limit: int = Field(default=5, ge=1, le=MAX_ROWS, description="rows, from the first")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.model is None) == (self.tokenizer is None):
            raise ValueError("give either `model` or `tokenizer`, and not both")
        return self


@router.post("/{file_id}/preview", summary="What training would see of its first rows: tokens, and which are learned")
def create_preview(
    file_id: str, body: Annotated[PreviewBody, Body()], caller: Writer, provided: Provided
) -> dict[str, Any]:
    with provided.database.reading() as session:
        row = files.get(session, caller.project_id, file_id)
        request = resolve(session, provided, row, body)
    if not _previewing.acquire(blocking=False):
        raise CapacityExceeded("Other files are being looked at.", retry_after_seconds=2.0)
    try:
        shown = run(request)
    finally:
        _previewing.release()
    return {"object": "file.preview", "file": file_id, "model": body.model, "tokenizer": body.tokenizer, **shown}


def resolve(session: Session, provided: Services, row: File, body: PreviewBody) -> PreviewRequest:
    """Look every name up, and choose what is not said.

    Raises:
        InvalidRequest: names the field; codes as those of a job that is submitted.
    """
    format = _format(row, body.format)
    try:
        config = registry.resolve_model(session, row.project_id, body.model).config if body.model else None
        name = body.model or body.tokenizer or BYTES
        key = None if body.tokenizer == BYTES else registry.tokenizer_key(session, row.project_id, name)
    except NotFound as error:
        param = "model" if body.model else "tokenizer"
        raise InvalidRequest(error.message, code=error.code, param=param, hint=error.hint) from None
    objective = _objective(body.objective, format, config)
    path = provided.storage.file(row.storage_key)
    return PreviewRequest(
        file=InputFile(id=row.id, path=path, filename=row.filename, sha256=row.sha256, format=format),
        tokenizer=provided.storage.directory(key) if key is not None else None,
        model=objective.models[0] if config is None else config.kind,
        objective=objective,
        labels=config.labels if config is not None and config.head == objective.head else (),
        sequence_length=_length(body.sequence_length, config),
        limit=body.limit,
        seed=body.seed,
    )


def _format(row: File, wanted: str) -> FormatName:
    if row.format is None:
        raise InvalidRequest(
            f"File {row.id!r} was uploaded with purpose {row.purpose!r}, so it was not checked for training.",
            code="wrong_purpose",
            hint="Upload it again with purpose `fine-tune`.",
        )
    format: FormatName = row.format if wanted == "auto" else wanted  # type: ignore[assignment]
    if not reads(format, row.format):  # type: ignore[arg-type]
        raise InvalidRequest(
            f"File {row.id!r} holds data of format {row.format!r}, which cannot be read as {format!r}.",
            code="mixed_formats",
            param="format",
            hint="Leave `format` at `auto`.",
        )
    return format


def _objective(wanted: Objective | None, format: FormatName, config: ModelConfig | None) -> Objective:
    if wanted is None:
        return _usual_objective(format, config)
    try:
        check_fit(wanted.kind, format)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", code="format_mismatch", param="objective.kind") from None
    if config is not None and config.kind not in wanted.models:
        raise InvalidRequest(
            f"Objective {wanted.kind!r} does not train a model that is of kind {config.kind!r}.",
            code="model_mismatch",
            param="objective.kind",
            hint=f"It trains {' and '.join(wanted.models)}.",
        )
    return wanted


def _usual_objective(format: FormatName, config: ModelConfig | None) -> Objective:
    """The first that learns from such data and trains such a model."""
    kinds: tuple[Kind, ...] = ("decoder", "encoder", "encoder_decoder") if config is None else (config.kind,)
    for cls in OBJECTIVES.values():
        is_whole = not any(field.is_required() for field in cls.model_fields.values())
        if is_whole and FORMATS[format].yields in cls.consumes and {*kinds} & {*cls.models}:
            return cls()  # type: ignore[return-value]
    raise InvalidRequest(
        f"No objective learns from data of format {format!r} with a model that is of kind {' or '.join(kinds)}.",
        code="format_mismatch",
        param="model",
        hint="GET /v1/catalog lists what each objective takes.",
    )


def _length(wanted: int | None, config: ModelConfig | None) -> int:
    if config is not None and wanted is not None and wanted > config.context_length:
        raise InvalidRequest(
            f"sequence_length {wanted} is longer than the model's context of {config.context_length} tokens.",
            code="sequence_too_long",
            param="sequence_length",
        )
    return wanted or min(config.context_length if config is not None else USUAL_LENGTH, USUAL_LENGTH)


def run(request: PreviewRequest) -> dict[str, Any]:
    """Ask a process of its own.

    Raises:
        InvalidData: the file, the tokenizer or the chat template fail.
    """
    environment = machine_environment() | {
        "PYTHONPATH": str(Path(core.__path__[0]).parent),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    too_slow = InvalidData(
        "The file's first rows took too much time or memory to tokenize.",
        code="preview_too_slow",
        hint="Ask for fewer rows, or shorten them.",
    )
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "core.data.preview"],
            input=request.model_dump_json().encode(),
            capture_output=True,
            env=environment,
            cwd="/",
            timeout=SECONDS,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise too_slow from None
    if child.returncode < 0:
        raise too_slow
    if child.returncode:
        log.error("a preview failed: %s", child.stderr.decode(errors="replace")[-4000:])
        raise RuntimeError("a preview failed")
    answer: dict[str, Any] = json.loads(child.stdout)
    if error := answer.get("error"):
        raise InvalidData(error["message"], code=error["code"], param=error["param"], hint=error["hint"])
    return answer
