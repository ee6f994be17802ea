"""The works that both sides do, and the folder in which they find the same model, the same data in the same order.

    spec.json plan.json …   a run directory, as a supervisor would lay it out
    tokenizer/ init/        the model to begin with, in Hugging Face's layout
    data/                   the token dataset
    rows.npz                what the peer reads: inputs and labels of the same examples, padded where they are padded

Text is the Python standard library's own; conversations are its functions and what their docstrings say.
"""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from core.child import Stop
from core.data.batches import Batches
from core.data.examples import TokenExample
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.data.train_tokenizer import learn_bpe
from core.job_spec import TrainSpec
from core.models.config import Dimensions, ModelConfig
from core.models.families import shape
from core.models.transformer import Transformer
from core.run_dir import INPUTS, PLAN, PREPARATION, SPEC, RunDir, RunInputs
from core.training.checkpoint import write_model
from core.training.plan import Preparation, Slot
from core.training.plan import plan as make_plan
from worker.slots import has_compiler

RATE, SEED, THREADS = 3e-4, 0, 2
IGNORED = -100
"""Hugging Face's label of what is not learned"""


@dataclass(frozen=True)
class Work:
    """What both sides do. `steps` a round; `peers` are ways to run Hugging Face's Trainer, of which the best counts."""

    name: str
    title: str
    family: str
    dimensions: Dimensions
    vocab_size: int
    sequences: int
    steps: int
    peers: tuple[str, ...]
    length: int = 256
    objective: str = "causal_lm"
    chat: bool = False
    packing: str = "documents"
    lora: bool = False
    spec: dict[str, Any] = field(default_factory=dict)


SMOLLM2 = Dimensions(
    hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1536, context_length=2048
)
WORKS = {
    work.name: work
    for work in (
        Work(
            "small",
            "6 layers, d 384, V 8192, T 256, B 16, bf16",
            "llama",
            Dimensions(hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1024, tied_embeddings=False),
            vocab_size=8192,
            sequences=16,
            steps=12,
            peers=("eager", "compile"),
        ),
        Work("smollm2", "SmolLM2-135M shape, T 256, B 4, bf16", "llama", SMOLLM2, 49152, 4, 6, ("eager", "compile")),
        Work(
            "lora",
            "LoRA r 8 on SmolLM2's shape, chat with padding, B 4, bf16",
            "llama",
            SMOLLM2,
            49152,
            4,
            8,
            ("eager",),
            objective="supervised",
            chat=True,
            packing="none",
            lora=True,
        ),
        Work(
            "packed",
            "LoRA r 8 on SmolLM2's shape, chat of mixed lengths, packed against padded, bf16",
            "llama",
            SMOLLM2,
            49152,
            4,
            8,
            ("eager",),
            objective="supervised",
            chat=True,
            lora=True,
        ),
        Work(
            "masked",
            "masked LM, MiniLM's shape, V 30522, T 256, B 16, bf16",
            "bert",
            Dimensions(hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536, norm_eps=1e-12),
            vocab_size=30522,
            sequences=16,
            steps=8,
            peers=("eager", "compile"),
            objective="masked_lm",
        ),
    )
}


def lay_out(work: Work, folder: Path, rounds: int) -> None:
    """Write all that both sides read."""
    tokenizer = tokenizer_of(folder.parent)
    dataset = write_token_dataset(
        folder / "data", examples(work, tokenizer), vocab_size=tokenizer.vocab_size, divisible=not work.chat
    )
    config = shape(work.family, work.dimensions, vocab_size=work.vocab_size)
    write_start(config, tokenizer, folder / "init")
    spec = spec_of(work)
    preparation = Preparation(
        train=("data",), validation=None, num_rows=1, num_tokens=1, num_supervised_tokens=1, num_validation_rows=0,
        num_documents=1, unigram_entropy=1.0, bytes_per_token=1.0,
    )  # fmt: skip
    slot = Slot(device="cpu", device_name="cpu", threads=THREADS, memory_bytes=16 << 30, has_compiler=has_compiler())
    run_dir = RunDir(folder)
    run_dir.write(SPEC, spec)
    run_dir.write(PREPARATION, preparation)
    run_dir.write(PLAN, make_plan(spec, config, preparation, slot))
    run_dir.write(
        INPUTS, RunInputs(datasets={"data": folder / "data"}, model=folder / "init", tokenizer=folder / "init")
    )
    np.savez(folder / "rows.npz", **rows_for_peer(work, dataset, spec, steps=work.steps * (rounds + 1)))


def spec_of(work: Work) -> TrainSpec:
    """As little as possible is said: the rest are the defaults that a user gets."""
    return TrainSpec.model_validate(
        {
            "seed": SEED,
            "model": {"init": "pretrained", "from": "init"},
            "data": {
                "train": [{"file": "data"}],
                "sequence_length": work.length,
                "packing": work.packing,
                "format": "chat" if work.chat else "text",
            },
            "objective": {"kind": work.objective},
            "optimizer": {"learning_rate": RATE, "weight_decay": 0.1, "betas": [0.9, 0.999], "eps": 1e-8},
            "schedule": {"kind": "constant", "warmup_fraction": 0.0},
            "budget": {"steps": 1_000_000},
            "batch": {"sequences": work.sequences},
            "precision": "bf16",
        }
        | ({"adapter": {"kind": "lora", "rank": 8, "alpha": 16.0}} if work.lora else {})
        | work.spec
    )


def write_start(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Random weights in Hugging Face's layout: both sides begin with the same numbers."""
    model = Transformer(config)
    model.initialise(SEED)
    write_model(folder, model, tokenizer)


def rows_for_peer(work: Work, dataset: TokenDataset, spec: TrainSpec, *, steps: int) -> dict[str, Any]:
    """Inputs, and labels where they are not the inputs, of `steps` batches."""
    if work.chat:
        return {f"ids_{i}": dataset[i].sequences[0].ids for i in range(len(dataset))} | {
            f"weights_{i}": dataset[i].sequences[0].weights for i in range(len(dataset))
        }
    batches = Batches(
        [dataset], [1.0], length=work.length, packing="documents", sequences=work.sequences, seed=SEED,
        predicts=spec.objective.predicts,
    )  # fmt: skip
    lanes = [batches.batch(step).lanes[0] for step in range(min(steps, batches.num_rows // work.sequences))]
    ids = np.concatenate([lane.ids_BT.numpy() for lane in lanes])
    targets = np.concatenate([lane.targets_BT.numpy() for lane in lanes])
    return {"ids": ids, "targets": targets}


def tokenizer_of(folder: Path) -> Tokenizer:
    """A byte-level BPE of 8192 tokens, learned once."""
    place = folder / "tokenizer"
    if not place.exists():
        learn_bpe(texts(), 8192, Stop()).save(place)
    return Tokenizer.load(place)


def texts() -> Iterator[str]:
    """Sources of the standard library, in order."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(errors="ignore")


def examples(work: Work, tokenizer: Tokenizer) -> Iterator[TokenExample]:
    """All text as one document, so that a row is a piece of it on both sides; or a conversation each."""
    if not work.chat:
        ids = [id for text in texts() for id in tokenizer.encode(text)]
        yield TokenExample.of(ids, [1.0] * len(ids))
        return
    for question, answer in conversations():
        head = tokenizer.encode(question)[: work.length // 2]
        tail = [*tokenizer.encode(answer)[: work.length // 2 - 1], tokenizer.end_of_text]
        yield TokenExample.of(head + tail, [0.0] * len(head) + [1.0] * len(tail))


def conversations() -> Iterator[tuple[str, str]]:
    """(what a function is called and takes, what its docstring says), of very different lengths."""
    for text in texts():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)):
                yield f"What does this function do?\ndef {node.name}({ast.unparse(node.args)})\n", doc


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}
