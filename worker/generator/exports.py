"""Models as GGUF files, one at a time. A child process writes the file, reads it back and compares what both say of
some texts (`core.models.export`), so that what is handed out is the model; nothing is kept."""

import asyncio
import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from core.adapters.merged_files import merged_files
from core.errors import CapacityExceeded, CoreError, InvalidData, InvalidRequest
from core.export_request import ExportRequest
from core.models.directory import read_model_config
from core.training import checkpoint
from worker.generator.residents import Place, Residents

_log = logging.getLogger(__name__)
PROGRAM = "core.models.export"
PREFIX = "export-"
"""of folders in the scratch"""


class Exports:
    """Knows where models lie, and whether a file is being written."""

    def __init__(self, residents: Residents, scratch: Path) -> None:
        self._residents, self._scratch = residents, scratch
        self._is_busy = False

    @asynccontextmanager
    async def exported(self, request: ExportRequest) -> AsyncIterator[Path]:
        """The file, as long as the block lasts.

        Raises:
            InvalidRequest: GGUF cannot hold the model. CapacityExceeded: another one is being written.
        """
        if self._is_busy:
            raise CapacityExceeded(
                "The generator is writing another file; try again.", retry_after_seconds=10.0, code="export_busy"
            )
        self._is_busy = True
        try:
            with _folder(self._scratch) as folder:
                place = await self._residents.place_of(request.model)
                source = await asyncio.to_thread(_whole, place, request, folder / "model")
                target = folder / "model.gguf"
                await _write(source, target, request)
                yield target
        finally:
            self._is_busy = False


@contextmanager
def _folder(scratch: Path) -> Iterator[Path]:
    """A folder that goes afterwards. What generators that died have left goes before: nobody locks it."""
    scratch.mkdir(parents=True, exist_ok=True)
    for left in scratch.glob(f"{PREFIX}*"):
        with _locked(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=scratch) as folder, _locked(Path(folder)):
        yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is locked now by us; the lock ends with the block or the process."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _whole(place: Place, request: ExportRequest, folder: Path) -> Path:
    """The directory of the model, verified; an adapter merged into its base."""
    try:
        checkpoint.verify(place.own, manifest_sha256=request.model.manifest_sha256, below="model/")
        if request.model.base is None:
            return place.own / "model"
        checkpoint.verify(place.whole, manifest_sha256=request.model.base.manifest_sha256, below="model/")
        own, whole = place.own / "model", place.whole / "model"
        folder.mkdir()
        for name, made in merged_files(whole, own, read_model_config(whole)).items():
            if isinstance(made, Path):
                (folder / name).write_bytes(made.read_bytes())
                continue
            with (folder / name).open("wb") as file:
                file.writelines(made.blocks())
        return folder
    except InvalidData as error:
        raise InvalidRequest(error.message, code=error.code, param="model", hint=error.hint) from None


async def _write(source: Path, target: Path, request: ExportRequest) -> None:
    words = (PROGRAM, str(source), str(target), "--kind", request.quantization.upper(), "--name", request.model.id)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:  # whoever asked has left
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return
    text = said.decode("utf-8", "replace").strip()
    if process.returncode == 1 and "Traceback" not in text:
        raise InvalidRequest(text, code="cannot_export", param="model")
    _log.error("%s ended with %s: %s", PROGRAM, process.returncode, text[-2000:])
    raise CoreError("The file could not be written; the generator's log says why.")
