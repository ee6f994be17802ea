"""The program that trains: `python -m core.training.run RUN_DIR` (see core/run_dir.py for what lies in there).

`python -m core.training.run --spare` is the same program kept warm: it imports everything, then waits on standard input
for one line `{"run_dir": …, "env": {…}}`, takes that environment, and goes on as if it had been started for it.
"""

import faulthandler
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from core import child
from core.child import Stop
from core.data.batches import Batches, RowBatch, validation_batches
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.events import Entered, Resumed, Started
from core.job_spec import RandomModel, TrainSpec
from core.models.transformer import Decoder
from core.models.weights import load_model
from core.run_dir import PLAN, PREPARATION, SPEC, RunDir, RunInputs
from core.training import checkpoint, loop
from core.training.checkpoint import Progress
from core.training.plan import Plan, Preparation
from core.training.samples import sample

SAMPLE_PROMPT_TOKENS, SAMPLE_TOKENS = 24, 64


def main(run_dir: RunDir, stop: Stop) -> None:
    """Load, resume or begin, train, report."""
    spec = TrainSpec.model_validate(run_dir.read_json(SPEC))
    plan = Plan.model_validate(run_dir.read_json(PLAN))
    inputs = run_dir.inputs()
    obey(plan, spec.seed)
    run_dir.report(Entered(phase="loading"))
    tokenizer = load_tokenizer(inputs)
    if inputs.checkpoint is not None:
        checkpoint.verify(inputs.checkpoint, manifest_sha256=inputs.checkpoint_manifest_sha256)
    model = build_model(spec, plan, inputs, tokenizer)
    optimizer = build_optimizer(spec, model)
    progress = Progress()
    run_dir.report(
        Started(
            total_steps=plan.total_steps,
            parameters=model.config.num_parameters(),
            device=plan.device_name,
        )
    )
    if inputs.checkpoint is not None:
        progress = checkpoint.load(inputs.checkpoint, model=model, optimizer=optimizer)
        run_dir.report(Resumed(step=progress.step, exactness="exact" if is_same_machine(plan) else "state"))
    run = assemble(spec, plan, inputs, run_dir, model, optimizer, tokenizer, stop)
    for event in loop.train(run, progress):
        run_dir.report(event)


def obey(plan: Plan, seed: int) -> None:
    """Everything global that touches the bits."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True, warn_only=plan.device == "cuda")
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if plan.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False


def is_same_machine(plan: Plan) -> bool:
    """Whether this process can compute the plan's bits."""
    return torch.__version__.split("+")[0] == plan.torch.split("+")[0] and torch.get_num_threads() == plan.threads


def load_tokenizer(inputs: RunInputs) -> Tokenizer:
    where = inputs.tokenizer or inputs.model
    return Tokenizer.load(where) if where else Tokenizer.bytes()


def build_model(spec: TrainSpec, plan: Plan, inputs: RunInputs, tokenizer: Tokenizer) -> Decoder:
    """Random weights, or those of the base model or of the checkpoint; always fp32 masters."""
    dropout = spec.model.dropout
    directory = inputs.checkpoint / "model" if inputs.checkpoint else inputs.model
    if directory is not None:
        return load_model(directory, dropout=dropout, device=plan.device)
    assert isinstance(spec.model, RandomModel)
    model = Decoder(spec.model.shape(vocab_size=tokenizer.vocab_size), dropout=dropout)
    model.initialise(spec.seed)
    return model.to(plan.device)


def build_optimizer(spec: TrainSpec, model: Decoder) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only, as is usual: norms have nothing to decay to."""
    settings = spec.optimizer
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate or 0.0, betas=settings.betas, eps=settings.eps, fused=True
    )


def assemble(
    spec: TrainSpec,
    plan: Plan,
    inputs: RunInputs,
    run_dir: RunDir,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    stop: Stop,
) -> loop.Run:
    """Open the data and hand everything to the loop."""
    preparation = Preparation.model_validate(run_dir.read_json(PREPARATION))
    length = spec.data.sequence_length or model.config.context_length
    held_out = TokenDataset.open(inputs.datasets[preparation.validation]) if preparation.validation else None

    def validate() -> Iterator[RowBatch]:
        assert held_out is not None
        return validation_batches(held_out, length=length, packing=spec.data.packing, sequences=plan.micro_batch)

    def save(progress: Progress) -> checkpoint.SavedCheckpoint:
        folder = run_dir.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return checkpoint.save(
            folder / f"step-{progress.step:08d}",
            model=model,
            optimizer=optimizer,
            tokenizer=tokenizer,
            progress=progress,
        )

    def write_samples() -> list[tuple[str, str]]:
        assert held_out is not None
        return [
            write_sample(model, tokenizer, held_out[index].ids, seed=spec.seed + index)
            for index in range(min(spec.evaluation.samples, len(held_out)))
        ]

    return loop.Run(
        spec=spec,
        plan=plan,
        model=model,
        optimizer=optimizer,
        batches=Batches(
            [TokenDataset.open(inputs.datasets[name]) for name in preparation.train],
            [source.weight for source in spec.data.train],
            length=length,
            packing=spec.data.packing,
            sequences=spec.batch.sequences or 1,
            seed=spec.seed,
        ),
        validate=validate if held_out is not None and preparation.num_validation_rows else None,
        save=save,
        write_samples=write_samples,
        should_stop=lambda: stop.requested,
    )


def write_sample(model: Decoder, tokenizer: Tokenizer, document: list[int], *, seed: int) -> tuple[str, str]:
    """Let the model continue the beginning of a document it has not seen."""
    prompt = document[:SAMPLE_PROMPT_TOKENS]
    ids = sample(model, prompt, max_tokens=SAMPLE_TOKENS, stop_ids=tokenizer.stop_ids, seed=seed)
    return tokenizer.decode(prompt), tokenizer.decode(ids)


def wait_as_spare() -> NoReturn:
    """Everything is imported. Wait for a run directory; the end of standard input means that there will be none."""
    warm_up()
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    order = json.loads(line)
    for name, value in order["env"].items():
        os.putenv(name, value)  # for native libraries that read it late (CUDA_VISIBLE_DEVICES); nothing of ours does
    child.run(main, Path(order["run_dir"]))


def warm_up() -> None:
    """Have imported what torch imports at first use: its compiler (two seconds), an optimizer's first step."""
    torch.use_deterministic_algorithms(True)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW([parameter], fused=True).step()


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    if sys.argv[1:] == ["--spare"]:
        wait_as_spare()
    child.run(main)
