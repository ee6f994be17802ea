"""Models that are loaded: read from storage, verified, kept as long as they fit (least recently used first out).

All bookkeeping is done on the event loop; only reading files leaves it.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.adapters.peft_directory import adapter_config, load_merged
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.endpoints import COMPLETIONS, endpoints
from core.errors import CapacityExceeded, InvalidRequest
from core.generation.encoder_decoder import EncoderDecoderEngine
from core.generation.engine import Engine
from core.generation.kv_cache import KVCache, bytes_per_token
from core.generation.packed_linear import pack_linears
from core.generation_request import ServedModel
from core.models.config import ModelConfig
from core.models.directory import read_model_config
from core.models.transformer import Transformer
from core.models.weights import load_model
from core.storage import Storage
from core.training import checkpoint
from worker.generator.loop import AnyEngine

_log = logging.getLogger(__name__)
MAX_SLOTS = 32
CACHE_FRACTION = 0.4
"""of the memory; so that two models of a usual size are resident side by side"""
BFLOAT16_FROM_PARAMETERS = 500_000_000
"""Smaller models are served in fp32: their numbers are those of training, and no near-tie is lost to rounding."""


@dataclass(frozen=True)
class Footprint:
    """What a model will take, known before anything is read but `config.json`."""

    dtype: torch.dtype
    num_slots: int
    context_length: int
    num_bytes: int


def footprint(config: ModelConfig, *, memory_bytes: int) -> Footprint:
    """As many slots of the whole context as fit in the cache's share; a shorter context where not one does. None for a
    model that continues no text.

    Raises:
        InvalidRequest: the weights alone are too large (code `model_too_large`).
    """
    parameters = config.num_parameters()
    dtype = torch.bfloat16 if parameters >= BFLOAT16_FROM_PARAMETERS else torch.float32
    weights = parameters * dtype.itemsize
    room = min(CACHE_FRACTION * memory_bytes, memory_bytes - weights)
    per_token = bytes_per_token(config, dtype) * (2 if config.kind == "encoder_decoder" else 1)  # source and answer
    tokens = int(room // per_token)
    if tokens < min(config.context_length, 256):
        raise InvalidRequest(
            f"The model needs {weights} bytes for its weights; this generator may use {memory_bytes} for all models.",
            code="model_too_large",
            param="model",
            hint="Its operator can raise WEIGHTSMITH_GENERATOR_MEMORY_BYTES.",
        )
    if not generates(config):
        return Footprint(dtype, 0, config.context_length, weights)
    context = min(config.context_length, tokens)
    slots = max(1, min(MAX_SLOTS, tokens // context))
    return Footprint(dtype, slots, context, weights + slots * context * per_token)


def generates(config: ModelConfig) -> bool:
    return COMPLETIONS in endpoints(config)


@dataclass(eq=False)
class Resident:
    """A loaded model, with an engine if it writes text. `num_users` requests are between `take` and `release`."""

    served: ServedModel
    model: Transformer
    tokenizer: Tokenizer
    engine: AnyEngine | None
    context_length: int
    num_bytes: int
    renderer: Renderer = field(default_factory=Renderer)
    num_users: int = 0

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def reads_sources(self) -> bool:
        """An encoder reads its prompts."""
        return self.config.kind == "encoder_decoder"

    def release(self) -> None:
        self.num_users -= 1


@dataclass(frozen=True)
class Place:
    """Where a model's directories lie."""

    own: Path
    whole: Path
    """of an adapter: its base's"""


class Residents:
    """The models of this process, by the hash of their manifest."""

    def __init__(self, storage: Storage, *, memory_bytes: int, device: str = "cpu") -> None:
        self._storage = storage
        self._memory_bytes = memory_bytes
        self._device = device
        self._resident: OrderedDict[str, Resident] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Resident]] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def storage_keys(self) -> list[str]:
        return [resident.served.storage_key for resident in self._resident.values()]

    @property
    def num_slots_used(self) -> int:
        return sum(resident.engine.num_used for resident in self._resident.values() if resident.engine is not None)

    async def take(self, model: ServedModel) -> Resident:
        """The loaded model; the caller must `release` it.

        Raises:
            NotFound, CorruptCheckpoint, InvalidData: it is not in storage, or not what it should be.
            InvalidRequest: it is too large. CapacityExceeded: others are being used and leave no room.
        """
        resident = self._resident.get(model.manifest_sha256)
        if resident is None:
            task = self._loading.get(model.manifest_sha256)
            if task is None:
                task = asyncio.create_task(self._load(model))
                self._loading[model.manifest_sha256] = task
                task.add_done_callback(lambda done: self._loaded(model.manifest_sha256, done))
            resident = await asyncio.shield(task)  # a caller who leaves does not spoil it for the others
        resident.num_users += 1
        if model.manifest_sha256 in self._resident:
            self._resident.move_to_end(model.manifest_sha256)
        return resident

    async def place_of(self, model: ServedModel) -> Place:
        """
        Raises:
            NotFound: its files are gone.
        """
        return await asyncio.to_thread(_find, self._storage, model)

    def discard(self, engine: AnyEngine) -> None:
        """Forget the model of an engine in an unknown state: the next request loads it anew."""
        for key, resident in list(self._resident.items()):
            if resident.engine is engine:
                del self._resident[key]

    def close(self) -> None:
        for resident in self._resident.values():
            resident.renderer.close()

    async def _load(self, model: ServedModel) -> Resident:
        async with self._one_at_a_time:
            place = await self.place_of(model)
            config = await asyncio.to_thread(_config, place)
            planned = footprint(config, memory_bytes=self._memory_bytes)
            self._make_room(planned.num_bytes)
            resident = await asyncio.to_thread(_read, model, place, planned, self._device)
            self._resident[model.manifest_sha256] = resident
            _log.info("loaded %s: %d bytes, %d slots", model.id, resident.num_bytes, planned.num_slots)
            return resident

    def _loaded(self, manifest_sha256: str, task: asyncio.Task[Resident]) -> None:
        del self._loading[manifest_sha256]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a model cannot be loaded: %s", error)

    def _make_room(self, num_bytes: int) -> None:
        """Let go of idle models until this one fits."""
        for key, resident in list(self._resident.items()):
            if self._used_bytes + num_bytes <= self._memory_bytes:
                return
            if resident.num_users == 0:
                del self._resident[key]
                resident.renderer.close()
                _log.info("unloaded %s", resident.served.id)
        if self._used_bytes + num_bytes > self._memory_bytes:
            raise CapacityExceeded(
                "The generator's memory is full of models that are answering others; try again.",
                retry_after_seconds=5.0,
                code="model_memory_full",
            )

    @property
    def _used_bytes(self) -> int:
        return sum(resident.num_bytes for resident in self._resident.values())


def _find(storage: Storage, model: ServedModel) -> Place:
    own = storage.directory(model.storage_key)
    return Place(own, storage.directory(model.base.storage_key) if model.base else own)


def _config(place: Place) -> ModelConfig:
    """An adapter's own where it has one: its head may be another than the base's."""
    return adapter_config(place.own / "model") or read_model_config(place.whole / "model")


def _read(served: ServedModel, place: Place, planned: Footprint, device: str) -> Resident:
    checkpoint.verify(place.own, manifest_sha256=served.manifest_sha256, below="model/")
    if served.base is None:
        model = load_model(place.own / "model", dtype=planned.dtype, device=device).eval()
    else:
        checkpoint.verify(place.whole, manifest_sha256=served.base.manifest_sha256, below="model/")
        whole, own = place.whole / "model", place.own / "model"
        model = load_merged(whole, own, dtype=planned.dtype, device=device).eval()
    pack_linears(model)
    tokenizer = Tokenizer.load(place.own / "model")
    return Resident(
        served=served,
        model=model,
        tokenizer=tokenizer,
        engine=_engine(model, tokenizer, planned, device) if generates(model.config) else None,
        context_length=planned.context_length,
        num_bytes=planned.num_bytes,
    )


def _engine(model: Transformer, tokenizer: Tokenizer, planned: Footprint, device: str) -> AnyEngine:
    if model.config.kind == "encoder_decoder":
        return EncoderDecoderEngine(model, tokenizer, num_slots=planned.num_slots)
    cache = KVCache(
        model.config,
        num_slots=planned.num_slots,
        context_length=planned.context_length,
        dtype=planned.dtype,
        device=device,
    )
    return Engine(model, cache)
