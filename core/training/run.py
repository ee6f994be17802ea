"""The program that trains: `python -m core.training.run RUN_DIR` (see core/run_dir.py for what lies in there).

`python -m core.training.run --spare` is the same program kept warm: it imports everything, then waits on standard input
for one line `{"run_dir": …, "env": {…}, "threads": n}`, takes these, and goes on as if it had been started with them.
"""

import faulthandler
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from core import child
from core.adapters.attach import Attached, attach_to
from core.adapters.peft_directory import load_adapter, load_merged
from core.adapters.spec import LoRA
from core.child import Stop
from core.data.batches import Batches, Corrupt, RowBatch, validation_batches
from core.data.statistics import token_sizes
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.events import Entered, Phase, Resumed, Started
from core.graders.sandbox import Sandbox
from core.job_spec import RandomModel, TrainSpec
from core.loss import Specials
from core.models.transformer import Transformer
from core.models.weights import load_model
from core.objectives import Objective
from core.objectives.grpo import GRPO
from core.optimizers import AdamW
from core.run_dir import PLAN, PREPARATION, SPEC, RunDir, RunInputs
from core.training import checkpoint, compiled, loop, optimizers, samples
from core.training.averaging import Average
from core.training.checkpoint import Progress, SavedCheckpoint
from core.training.plan import Plan, Preparation
from core.training.rollouts import RolloutBatches, Stopped, Writer, validation_rollouts
from core.training.stats import Forward

CHECKPOINTS = "checkpoints"
SIGN_OF_LIFE_SECONDS = 10.0


def main(run_dir: RunDir, stop: Stop) -> None:
    """Load, begin or resume, train, report."""
    spec = TrainSpec.model_validate(run_dir.read_json(SPEC))
    plan = Plan.model_validate(run_dir.read_json(PLAN))
    inputs = run_dir.inputs()
    obey(plan, spec.seed)
    run_dir.report(Entered(phase="loading"))
    if inputs.checkpoint is not None:
        checkpoint.verify(inputs.checkpoint, manifest_sha256=inputs.checkpoint_manifest_sha256)
    tokenizer = load_tokenizer(inputs)
    model, adapter = build_model(spec, plan, inputs, tokenizer)
    if plan.compiled:
        compiled.compile_blocks(model)
    optimizer = optimizers.build(spec.optimizer, model)
    average = Average(model, spec.optimizer.ema_decay) if spec.optimizer.ema_decay is not None else None
    progress, resumed = Progress(plan.micro_batch, recomputes=spec.activation_checkpointing), None
    if inputs.checkpoint is not None:
        progress, resumed = resume(inputs.checkpoint, plan, model, average, optimizer)
    if progress.recomputes:
        model.recompute()
    with Sandbox() as sandbox:
        run = assemble(spec, plan, inputs, run_dir, model, adapter, average, optimizer, tokenizer, stop, sandbox)
        run_dir.report(
            Started(
                step=progress.step,
                total_steps=plan.total_steps,
                parameters=model.config.num_parameters(),
                device=plan.device_name,
            )
        )
        if resumed is not None:
            run_dir.report(resumed)
        for event in loop.train(run, progress):
            run_dir.report(event)


def obey(plan: Plan, seed: int) -> None:
    """Everything global that touches the bits."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True, warn_only=plan.device == "cuda")
    # A debugging aid: it would cost a pass over each new tensor. mypy does not see into this module.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = False


def made_with(plan: Plan, micro_batch: int) -> dict[str, str | int]:
    """What decides the bits of this process: two that agree in all of it compute the same."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if plan.device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": plan.precision,
        "attention": plan.attention,
        "compiled": plan.compiled,
        "micro_batch": micro_batch,
    }


def cpu_name() -> str:
    """The processor's own name where the system tells it, and the instructions that torch uses on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, os.uname().machine)} {torch.backends.cpu.get_cpu_capability()}"


def load_tokenizer(inputs: RunInputs) -> Tokenizer:
    where = inputs.tokenizer or inputs.model
    return Tokenizer.load(where) if where else Tokenizer.bytes()


def build_model(
    spec: TrainSpec, plan: Plan, inputs: RunInputs, tokenizer: Tokenizer
) -> tuple[Transformer, Attached | None]:
    """Random weights, or those of the base model or of the checkpoint; always fp32 masters of what is trained."""
    dropout, config = spec.model.dropout, inputs.config
    if isinstance(spec.adapter, LoRA):
        return put_adapter(spec, spec.adapter, plan, inputs)
    if inputs.checkpoint is not None:
        return load_model(inputs.checkpoint / "model", dropout=dropout, device=plan.device), None
    if inputs.model is not None and inputs.adapter is not None:
        merged = load_merged(inputs.model, inputs.adapter, dropout=dropout, device=plan.device, **head_of(spec, inputs))
        return merged, None
    if inputs.model is not None:
        return load_model(inputs.model, dropout=dropout, device=plan.device, **head_of(spec, inputs)), None
    assert isinstance(spec.model, RandomModel)
    if config is None:
        shape = spec.model.shape(vocab_size=tokenizer.vocab_size)
        config = shape.with_head(spec.objective.head, next_sentence=spec.objective.next_sentence_head)
    model = Transformer(config, dropout=dropout)
    model.initialise(spec.seed)
    return model.to(plan.device), None


def head_of(spec: TrainSpec, inputs: RunInputs) -> dict[str, Any]:
    """What `load_model` is told of the head that the objective needs."""
    config = inputs.config
    return {
        "head": config.head if config else spec.objective.head,
        "labels": config.labels if config else (),
        "many_labels": config.many_labels if config else False,
        "next_sentence": config.next_sentence if config else spec.objective.next_sentence_head,
        "seed": spec.seed,
    }


def put_adapter(spec: TrainSpec, adapter: LoRA, plan: Plan, inputs: RunInputs) -> tuple[Transformer, Attached]:
    """The frozen base with an adapter beside it: a fresh one, the one to go on with, or the checkpoint's."""
    assert inputs.model is not None
    model = load_model(inputs.model, dropout=spec.model.dropout, **head_of(spec, inputs))
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    attached = attach_to(model, adapter, seed=spec.seed, dtype=dtype, base=inputs.base)
    before = inputs.checkpoint / "model" if inputs.checkpoint else inputs.adapter
    if before is not None:
        load_adapter(attached, before, model.config)
    return model.to(plan.device), attached


def resume(
    path: Path, plan: Plan, model: Transformer, average: Average | None, optimizer: torch.optim.Optimizer
) -> tuple[Progress, Resumed]:
    """Where the checkpoint stands, and whether this process goes on with the same bits."""
    progress, before = checkpoint.load(path, model=model, average=average, optimizer=optimizer)
    progress.micro_batch = min(progress.micro_batch, plan.micro_batch)
    is_planned = torch.__version__.partition("+")[0] == plan.torch.partition("+")[0]
    is_same = is_planned and before == made_with(plan, progress.micro_batch)
    return progress, Resumed(step=progress.step, exactness="exact" if is_same else "state")


def assemble(
    spec: TrainSpec,
    plan: Plan,
    inputs: RunInputs,
    run_dir: RunDir,
    model: Transformer,
    adapter: Attached | None,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    stop: Stop,
    sandbox: Sandbox,
) -> loop.Run:
    """Open the data and hand everything to the loop."""
    preparation = Preparation.model_validate(run_dir.read_json(PREPARATION))
    objective, length = spec.objective, spec.data.sequence_length or model.config.context_length
    corrupt = corruption(objective, tokenizer)
    held_out = TokenDataset.open(inputs.datasets[preparation.validation]) if preparation.validation else None

    def validate() -> Iterator[RowBatch]:
        assert held_out is not None
        rows = validation_batches(
            held_out,
            length=length,
            packing=spec.data.packing,
            sequences=spec.batch.sequences or 1,
            predicts=objective.predicts,
            corrupt=corrupt,
        )
        return validation_rollouts(rows, held_out, writer) if writer else rows

    def write_samples() -> Iterator[tuple[str, str]]:
        with compiled.not_now():  # a text grows: each of its tokens would be another shape
            yield from samples.write(
                model, tokenizer, held_out, spec.evaluation.samples, seed=spec.seed, sees_prefix=objective.sees_prefix
            )

    def save(progress: Progress) -> SavedCheckpoint:
        return checkpoint.save(
            run_dir.path / CHECKPOINTS / f"step-{progress.step:08d}",
            model=model,
            adapter=adapter,
            average=average,
            optimizer=optimizer,
            tokenizer=tokenizer,
            progress=progress,
            made_with=made_with(plan, progress.micro_batch),
        )

    forward = Forward(
        model=model,
        reference=load_reference(plan, inputs),
        precision=plan.precision,
        attention=plan.attention,
        compiled=plan.compiled,
        adapter=adapter if objective.needs_reference and inputs.reference is None else None,
        separator=tokenizer.separator,
    )
    batches = training_batches(spec, [inputs.datasets[name] for name in preparation.train], length, corrupt)
    writer = None
    if isinstance(objective, GRPO):
        watch = watcher(run_dir, stop)
        writer = Writer(objective, forward, tokenizer, sandbox, length=length, watch=watch)
    return loop.Run(
        spec=spec,
        plan=plan,
        forward=forward,
        optimizer=optimizer,
        average=average,
        token_sizes=sizes_of_tokens(objective, tokenizer),
        batches=RolloutBatches(batches, writer) if writer else batches,
        validate=validate if held_out is not None and preparation.num_validation_rows else None,
        write_samples=write_samples,
        save=save,
        should_stop=lambda: stop.requested,
        labels=preparation.labels,
    )


def training_batches(spec: TrainSpec, datasets: list[Path], length: int, corrupt: Corrupt | None) -> Batches:
    """Of the datasets, in the order of `data.train`."""
    return Batches(
        [TokenDataset.open(path) for path in datasets],
        [source.weight for source in spec.data.train],
        length=length,
        packing=spec.data.packing,
        sequences=spec.batch.sequences or 1,
        seed=spec.seed,
        predicts=spec.objective.predicts,
        corrupt=corrupt,
    )


def sizes_of_tokens(objective: Objective, tokenizer: Tokenizer) -> Tensor | None:
    """Where the objective reports bits per byte."""
    if "bits_per_byte" not in objective.metrics:
        return None
    return torch.from_numpy(token_sizes(tokenizer, tokenizer.vocab_size))


def watcher(run_dir: RunDir, stop: Stop) -> Callable[[Phase], None]:
    """For work within a step that may take long: gives signs of life, and ends it when that is asked for."""
    heard_at = time.monotonic()

    def watch(phase: Phase) -> None:
        nonlocal heard_at
        if stop.requested:
            raise Stopped
        if time.monotonic() - heard_at > SIGN_OF_LIFE_SECONDS:
            run_dir.report(Entered(phase=phase))
            heard_at = time.monotonic()

    return watch


def load_reference(plan: Plan, inputs: RunInputs) -> Transformer | None:
    """The model that the trained one is compared with; it is never changed."""
    if inputs.reference is None:
        return None
    if inputs.reference_adapter is not None:
        model = load_merged(inputs.reference, inputs.reference_adapter, device=plan.device)
    else:
        model = load_model(inputs.reference, device=plan.device)
    return model.eval().requires_grad_(False)


def corruption(objective: Objective, tokenizer: Tokenizer) -> Corrupt | None:
    """What the objective does to an example each time it is shown."""
    if not objective.corrupts:
        return None
    specials = Specials(tokenizer.vocab_size, tokenizer.mask, frozenset(tokenizer.specials.values()))
    return lambda piece, random: objective.corrupt(piece.ids, piece.targets, piece.weights, random, specials)


def wait_as_spare() -> NoReturn:
    """Everything is imported, and what torch imports late too. Wait for a run directory."""
    warm_up()
    order = child.wait_as_spare()
    torch.set_num_threads(order.threads)
    child.run(main, order.run_dir)


def warm_up() -> None:
    """Have imported what torch imports at first use: its compiler (two seconds), an optimizer's first step."""
    torch.use_deterministic_algorithms(True)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizers.build(AdamW(), torch.nn.ParameterList([parameter])).step()


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    if sys.argv[1:] == ["--spare"]:
        wait_as_spare()
    child.run(main)
