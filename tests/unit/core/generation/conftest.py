"""A tiny model with random weights, and a way to run an engine to the end."""

from collections.abc import Iterable

import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.generation.continuation import Continuation, Line, continuations
from core.generation.engine import Engine
from core.generation.kv_cache import KVCache
from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer
from core.sampling_params import SamplingParams

CONTEXT = 320


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.bytes()


def tiny_decoder(vocab_size: int, *, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Transformer:
    """`spread` scales the output, so that the distribution over tokens is neither flat nor certain."""
    dims = Dimensions(
        hidden_size=48, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=8, context_length=CONTEXT,
        tied_embeddings=False,
    )  # fmt: skip
    decoder = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=vocab_size))
    decoder.initialise(seed=1)
    with torch.no_grad():
        decoder.model.embed_tokens.weight *= 0.22
        decoder.lm_head.weight *= 4.4 * spread
        for layer in decoder.model.layers:
            for parameter in layer.parameters():
                if parameter.dim() == 2:
                    parameter *= 1.75
    return decoder.to(dtype).eval()


@pytest.fixture(scope="session")
def decoder(tokenizer: Tokenizer) -> Transformer:
    return tiny_decoder(tokenizer.vocab_size)


class Bench:
    """An engine with its requests' lines, collected by answer."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, num_slots: int = 8) -> None:
        self.tokenizer = tokenizer
        dtype = model.lm_head.weight.dtype
        self.cache = KVCache(model.config, num_slots=num_slots, context_length=CONTEXT, dtype=dtype)
        self.engine = Engine(model, self.cache)
        self.lines: dict[Continuation, list[Line]] = {}

    def submit(self, *prompts: str | list[int], **params: object) -> list[Continuation]:
        ids = [self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        answers = continuations(
            ids,
            SamplingParams.model_validate({"temperature": 0, **params}),
            self.tokenizer,
            context_length=CONTEXT,
            vocab_size=self.engine.model.config.vocab_size,
        )
        self.engine.submit(answers)
        self.lines |= {answer: [] for answer in answers}
        return answers

    def step(self) -> None:
        for answer, line in self.engine.step():
            self.lines[answer].append(line)

    def run(self) -> None:
        while self.engine.has_work:
            self.step()

    def finish(self, *prompts: str | list[int], **params: object) -> list[Continuation]:
        answers = self.submit(*prompts, **params)
        self.run()
        return answers

    def text(self, answer: Continuation) -> str:
        return "".join(line.text for line in self.lines[answer] if line.kind == "token")

    def reason(self, answer: Continuation) -> str:
        return next((line.finish_reason for line in self.lines[answer] if line.kind == "done"), "")

    def errors(self, answers: Iterable[Continuation]) -> list[str]:
        return [line.code for answer in answers for line in self.lines[answer] if line.kind == "error"]

    @property
    def num_used(self) -> int:
        return self.cache.num_slots - self.cache.num_free


@pytest.fixture
def bench(decoder: Transformer, tokenizer: Tokenizer) -> Bench:
    return Bench(decoder, tokenizer)
