"""Models, and the names that stand for them. A model's id has `:` and may have `/`, so its routes take whole paths."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field
from sqlalchemy.orm import Session

from api import generators, views, zipped
from api.dependencies import Provided, Reader, Services, Writer
from api.routes.files import allowed_path
from api.schemas import AliasOut, Deleted, ListOut, ModelOut
from core.adapters.merged_files import files_below, merged_files
from core.adapters.peft_config import base_named, is_adapter
from core.errors import Conflict, InvalidData, InvalidRequest, NotFound
from core.export_request import ExportRequest, Quantization
from core.jobs import adapter_import, model_import, models, registry
from core.jobs.keys import Caller
from core.jobs.tables import Alias
from core.spec import Spec

router = APIRouter(prefix="/v1", tags=["models"])
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_TAKEN_ENDINGS = ("/download", "/alias")


class AliasTarget(Spec):
    model: str = Field(min_length=1, max_length=256, description="id of the model that the alias stands for")


class ModelImport(Spec):
    path: str = Field(min_length=1, max_length=4096, description="a Hugging Face or PEFT directory on the server")
    name: str | None = Field(
        default=None, pattern=_ALIAS.pattern, description="what to call it; becomes an alias. Default: no alias"
    )
    base: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="for a PEFT directory: the model that the adapter stands on. Default: what its config names",
    )


@router.get("/models", summary="List models, newest first")
def list_models(caller: Reader, provided: Provided) -> ListOut[ModelOut]:
    with provided.database.reading() as session:
        rows = models.list_models(session, caller.project_id)
        names = models.aliases_by_model(session, caller.project_id)
    return views.page([views.model(row, project=caller.project, aliases=names.get(row.name, ())) for row in rows])


@router.post("/models/import", summary="Take over a model from a folder that the operator allows", status_code=201)
def import_model(body: ModelImport, caller: Writer, provided: Provided) -> ModelOut:
    source = allowed_path(body.path, provided.settings.import_folders, param="path")
    if not source.is_dir():
        raise InvalidRequest(f"{body.path!r} is not a directory.", code="not_a_directory", param="path")
    if body.name is not None:
        with provided.database.reading() as session:
            _check_free(session, caller, body.name)
    storage, scratch = provided.storage, provided.settings.scratch_dir
    try:
        base = _base(body, source, caller, provided)
        if base is None:
            imported = model_import.copy_model(source, storage, scratch)
        else:
            imported = adapter_import.copy_adapter(source, storage, scratch, base=base)
    except InvalidData as error:
        raise InvalidData(error.message, code=error.code, param="path", hint=error.hint) from None
    with provided.database.transaction() as session:
        row = model_import.add_imported(session, caller.project_id, imported, name=body.name or source.name)
        if body.name is not None:
            _check_free(session, caller, body.name)
            registry.set_alias(session, caller.project_id, body.name, row.name)
        return views.model(row, project=caller.project, aliases=[body.name] if body.name else [])


def _base(body: ModelImport, source: Path, caller: Caller, provided: Provided) -> registry.Servable | None:
    """What an adapter in `source` is to stand on; None for a whole model."""
    if not is_adapter(source):
        return None
    with provided.database.reading() as session:
        name = body.base or base_named(source) or ""
        try:
            base = registry.resolve_model(session, caller.project_id, name)
        except NotFound:
            raise InvalidRequest(
                f"The adapter stands on {name!r}, which is no model of this project.",
                code="model_not_found",
                param="base",
                hint="Import its base first, and name it as `base`.",
            ) from None
    if base.base is not None:
        raise InvalidRequest(
            f"{name!r} is an adapter itself, and stands on {base.base.name!r}.", code="not_a_whole_model", param="base"
        )
    return base


@router.get("/aliases", summary="List aliases")
def list_aliases(caller: Reader, provided: Provided) -> ListOut[AliasOut]:
    with provided.database.reading() as session:
        return views.page([views.alias(row) for row in models.list_aliases(session, caller.project_id)])


@router.put("/models/{alias:path}/alias", summary="Let a name of your own stand for a model")
def put_alias(alias: str, body: Annotated[AliasTarget, Body()], caller: Writer, provided: Provided) -> AliasOut:
    if not _ALIAS.fullmatch(alias) or alias.endswith(_TAKEN_ENDINGS):
        raise InvalidRequest(
            f"{alias!r} cannot be an alias; letters, digits and . _ : @ / - are allowed, at most 128.", param="alias"
        )
    with provided.database.transaction() as session:
        registry.set_alias(session, caller.project_id, alias, body.model)
        session.flush()
        return views.alias(models.get_alias(session, caller.project_id, alias))


@router.get("/models/{alias:path}/alias", summary="What an alias stands for")
def get_alias(alias: str, caller: Reader, provided: Provided) -> AliasOut:
    with provided.database.reading() as session:
        return views.alias(models.get_alias(session, caller.project_id, alias))


@router.delete("/models/{alias:path}/alias", summary="Remove an alias; the model stays")
def delete_alias(alias: str, caller: Writer, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        session.delete(models.get_alias(session, caller.project_id, alias))
    return Deleted(id=alias, object="alias")


@router.get(
    "/models/{model:path}/download",
    summary="The model as one zip (a Hugging Face directory, or an adapter's PEFT directory), or as a GGUF file",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def download_model(
    model: str,
    caller: Reader,
    provided: Provided,
    format: Literal["safetensors", "adapter", "gguf"] = "safetensors",
    quantization: Annotated[
        Quantization | None, BeforeValidator(str.lower), Query(description="of a GGUF file's matrices; default: q8_0")
    ] = None,
) -> Response:
    """An adapter's `safetensors` and `gguf` are those of its base with the adapter merged in: a model of its own. A
    generator writes the GGUF file when it is asked for, and compares what it says with what the model says."""
    if quantization is not None and format != "gguf":
        raise InvalidRequest(f"`quantization` is for `format=gguf`, not for {format}.", param="quantization")
    if format == "gguf":
        return _gguf(model, caller, provided, quantization or "q8_0")
    with provided.database.reading() as session:
        found = registry.resolve_model(session, caller.project_id, model)
    folder = provided.storage.directory(found.storage_key) / "model"
    if format == "adapter" and found.base is None:
        raise InvalidRequest(
            f"{found.name!r} is a whole model, not an adapter.",
            code="not_an_adapter",
            param="format",
            hint="Download it as `safetensors`.",
        )
    files: Mapping[str, zipped.Source] = files_below(folder)
    if format == "safetensors" and found.base is not None:
        files = merged_files(provided.storage.directory(found.base.storage_key) / "model", folder, found.config)
    if not files:
        raise NotFound(f"The files of {found.name!r} are gone.", code="bytes_missing")
    length = zipped.num_bytes(files)
    return StreamingResponse(
        zipped.stream(files),
        media_type="application/zip",
        headers=_attached(found.name, "zip") | ({} if length is None else {"content-length": str(length)}),
    )


def _gguf(model: str, caller: Caller, provided: Services, quantization: Quantization) -> Response:
    found, places = generators.resolve(provided.database, caller.project_id, model)
    if found.config.kind != "decoder" or found.config.head != "language_model":
        raise InvalidRequest(
            f"GGUF holds decoders that write text; {found.name!r} is of the family {found.config.family} with the head "
            f"{found.config.head}.",
            code="cannot_export",
            param="format",
            hint="Download it as `safetensors`.",
        )
    request = ExportRequest(model=generators.served(found), quantization=quantization)
    return generators.Exported(provided, places, request, _attached(found.name, f"{quantization}.gguf"))


def _attached(name: str, ending: str) -> dict[str, str]:
    """The header by which a browser names the file."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return {"content-disposition": f'attachment; filename="{plain}.{ending}"'}


@router.get("/models/{model:path}", summary="One model, by its id, an alias, or a checkpoint's name")
def get_model(model: str, caller: Reader, provided: Provided) -> ModelOut:
    with provided.database.reading() as session:
        row, job = models.get_model(session, caller.project_id, model)
        names = models.aliases_by_model(session, caller.project_id)
        return views.model_or_checkpoint(row, job, project=caller.project, aliases=names)


@router.delete("/models/{model:path}", summary="Delete a model that no job needs")
def delete_model(model: str, caller: Writer, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        models.delete_model(session, caller.project_id, model)
    return Deleted(id=model, object="model")


def _check_free(session: Session, caller: Caller, name: str) -> None:
    if session.get(Alias, (caller.project_id, name)) is not None:
        raise Conflict(
            f"The alias {name!r} stands for another model.",
            code="alias_taken",
            param="name",
            hint="Choose another name.",
        )
