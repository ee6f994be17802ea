"""A real generator process, and tiny models in its storage."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import torch

from core.data.tokenizer import Tokenizer
from core.generation_request import Answer, GenerationRequest, ServedModel, parse_answer
from core.jobs import workers
from core.jobs.database import Database
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import save_weights
from core.settings import Settings
from core.storage import open_storage
from core.training.checkpoint import write_manifest
from tests.services import spawn, wait_until

TOKEN = "a secret of api and generator"
CONTEXT = 4096


def tiny_decoder(vocab_size: int, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> Transformer:
    """Random weights, scaled so that the distribution over tokens is neither flat nor certain."""
    dims = Dimensions(
        hidden_size=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_dim=8,
        context_length=CONTEXT,
        tied_embeddings=False,
    )
    decoder = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=vocab_size))
    decoder.initialise(seed=seed)
    with torch.no_grad():
        decoder.model.embed_tokens.weight *= 0.22
        decoder.lm_head.weight *= 4.4
        for layer in decoder.model.layers:
            for parameter in layer.parameters():
                if parameter.dim() == 2:
                    parameter *= 1.75
    return decoder.to(dtype).eval()


def put_model(
    settings: Settings,
    folder: Path,
    *,
    name: str = "tiny",
    seed: int = 1,
    made: Transformer | None = None,
    tokenizer: Tokenizer | None = None,
) -> ServedModel:
    """A checkpoint in storage, as a training run leaves it (without its state): `made`, or a tiny decoder."""
    tokenizer = tokenizer or Tokenizer.bytes()
    made = made or tiny_decoder(tokenizer.vocab_size, seed=seed)
    model = folder / name / "model"
    model.mkdir(parents=True)
    save_weights(made, model)
    write_model_config(
        model,
        made.config,
        pad=tokenizer.pad,
        end_of_text=tokenizer.end_of_text,
        stop_ids=sorted(tokenizer.stop_ids),
    )
    tokenizer.save(model)
    manifest_sha256, _ = write_manifest(folder / name, step=1)
    key = f"checkpoints/{name}"
    open_storage(settings.storage_url).put_directory(key, folder / name)
    shutil.rmtree(folder / name)
    return ServedModel(id=f"pt:test:{name}", storage_key=key, manifest_sha256=manifest_sha256)


def generator_settings(folder: Path, database_url: str, **values: Any) -> Settings:
    given = {"generator_token": TOKEN, "drain_seconds": 5.0, **values}
    return Settings(home=folder, database_url=database_url, **given)


class GeneratorProcess:
    """`python -m worker.generator`, as production starts it; a context manager that waits for its first heartbeat."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.log = folder / "generator.log"
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = Path(__file__).resolve().parent.parent
        env = dict(os.environ) | self.settings.environment()
        self.process = spawn([sys.executable, "-m", "worker.generator"], log=self.log, env=env, cwd=folder)
        database = Database(self.settings.database_url)
        wait_until(lambda: self._answers(database), what="the generator's heartbeat")
        database.close()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def _answers(self, database: Database) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the generator ended:\n{self.log.read_text()}")
        with database.reading() as session:
            rows = workers.alive(session, kind="generator")
            self.address = next((row.address or "" for row in rows if row.pid == self.process.pid), "")
        return bool(self.address)

    def client(self, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=30, trust_env=False, **options)

    async def figures(self, client: httpx.AsyncClient) -> dict[str, int]:
        return dict((await client.get("/healthz")).json())

    async def until(self, client: httpx.AsyncClient, **wanted: int) -> dict[str, int]:
        """Look until the figures are these; returns all of them."""
        async with asyncio.timeout(20):
            while not wanted.items() <= (figures := await self.figures(client)).items():
                await asyncio.sleep(0.005)
        return figures


def asking(model: ServedModel, *prompts: str, **params: Any) -> GenerationRequest:
    sampling = {"temperature": 0, "max_tokens": 8, **params}
    return GenerationRequest.model_validate(
        {"id": "test", "model": model.model_dump(), "prompts": prompts, "sampling": sampling}
    )


async def ask(client: httpx.AsyncClient, request: GenerationRequest) -> list[Answer]:
    response = await client.post("/generate", content=request.model_dump_json())
    return [parse_answer(line) for line in response.text.splitlines()]


@asynccontextmanager
async def asked(client: httpx.AsyncClient, request: GenerationRequest) -> AsyncIterator[AsyncIterator[Answer]]:
    """The answer line by line."""
    async with client.stream("POST", "/generate", content=request.model_dump_json()) as response:
        lines = response.aiter_lines()
        try:
            yield (parse_answer(line) async for line in lines)
        finally:
            await response.aclose()


def text_of(lines: Iterable[Answer], choice: int = 0) -> str:
    return "".join(line.text for line in lines if line.kind == "token" and line.choice == choice)
