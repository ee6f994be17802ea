"""Which models are loaded, and which have to go."""

import asyncio

import pytest
import torch

from core.errors import CapacityExceeded, InvalidRequest, NotFound
from core.generation_request import ServedModel
from core.models import families
from core.models.config import Dimensions, ModelConfig
from core.settings import Settings
from core.storage import open_storage
from tests.generators import put_model
from worker.generator.residents import MAX_SLOTS, Residents, footprint


@pytest.fixture(scope="module")
def models(settings: Settings) -> list[ServedModel]:
    return [put_model(settings, settings.home / "made", name=f"model-{i}", seed=i) for i in range(3)]


@pytest.fixture
def residents(settings: Settings, models: list[ServedModel]) -> Residents:
    """Room for two."""
    storage = open_storage(settings.storage_url)
    roomy = Residents(storage, memory_bytes=1 << 30)

    async def size() -> int:
        return (await roomy.take(models[0])).num_bytes

    return Residents(storage, memory_bytes=int(2.5 * asyncio.run(size())))


def keys(residents: Residents) -> list[str]:
    return [key.rpartition("-")[2] for key in residents.storage_keys]


def test_the_least_recently_used_idle_model_goes(residents: Residents, models: list[ServedModel]) -> None:
    async def scenario() -> None:
        first, second, third = models
        (await residents.take(first)).release()
        (await residents.take(second)).release()
        assert keys(residents) == ["0", "1"]
        (await residents.take(first)).release()
        (await residents.take(third)).release()
        assert keys(residents) == ["0", "2"]
        held = [await residents.take(first), await residents.take(third)]
        with pytest.raises(CapacityExceeded) as full:
            await residents.take(second)
        assert full.value.code == "model_memory_full"
        assert keys(residents) == ["0", "2"]
        held[0].release()
        (await residents.take(second)).release()
        assert keys(residents) == ["2", "1"]

    asyncio.run(scenario())


def test_a_model_is_loaded_once_for_all_who_wait(residents: Residents, models: list[ServedModel]) -> None:
    async def scenario() -> None:
        impatient = asyncio.create_task(residents.take(models[0]))
        others = [asyncio.create_task(residents.take(models[0])) for _ in range(3)]
        await asyncio.sleep(0)
        impatient.cancel()
        found = await asyncio.gather(*others)
        assert len(set(map(id, found))) == 1
        assert found[0].num_users == 3

    asyncio.run(scenario())


def test_a_failed_load_is_tried_again(residents: Residents, models: list[ServedModel]) -> None:
    async def scenario() -> None:
        missing = models[0].model_copy(update={"storage_key": "checkpoints/none"})
        with pytest.raises(NotFound):
            await residents.take(missing)
        assert (await residents.take(models[0])).num_users == 1

    asyncio.run(scenario())


def test_an_engine_in_an_unknown_state_is_loaded_anew(residents: Residents, models: list[ServedModel]) -> None:
    async def scenario() -> None:
        before = await residents.take(models[0])
        residents.discard(before.engine)
        assert (await residents.take(models[0])).engine is not before.engine

    asyncio.run(scenario())


def shaped(**dimensions: int) -> ModelConfig:
    return ModelConfig.from_dimensions("llama", Dimensions.model_validate(dimensions), vocab_size=49152)


SMALL = shaped(hidden_size=64, num_layers=2, num_heads=2, context_length=512)
SMOLLM2 = shaped(
    hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1536, context_length=8192
)

BERT = Dimensions(hidden_size=64, num_layers=2, num_heads=2)
LARGE = shaped(
    hidden_size=2048, num_layers=16, num_heads=32, num_kv_heads=8, intermediate_size=8192, context_length=8192
)


def test_the_cache_fits_beside_the_weights() -> None:
    small = footprint(SMALL, memory_bytes=4 << 30)
    assert (small.num_slots, small.context_length, small.dtype) == (MAX_SLOTS, 512, torch.float32)
    large = footprint(LARGE, memory_bytes=16 << 30)
    assert (large.num_slots, large.context_length, large.dtype) == (25, 8192, torch.bfloat16)
    medium = footprint(SMOLLM2, memory_bytes=4 << 30)
    assert (medium.num_slots, medium.context_length, medium.dtype) == (4, 8192, torch.float32)
    assert medium.num_bytes < 2.2 * 2**30
    tight = footprint(SMOLLM2, memory_bytes=700 << 20)
    assert tight.num_slots == 1
    assert 256 <= tight.context_length < 8192
    with pytest.raises(InvalidRequest) as refused:
        footprint(SMOLLM2, memory_bytes=512 << 20)
    assert refused.value.code == "model_too_large"


@pytest.mark.parametrize("config", [SMALL.with_head("score"), families.shape("bert", BERT, vocab_size=100)])
def test_what_continues_no_text_needs_no_cache(config: ModelConfig) -> None:
    planned = footprint(config, memory_bytes=4 << 30)
    assert (planned.num_slots, planned.num_bytes) == (0, 4 * config.num_parameters())
