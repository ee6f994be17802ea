"""Our side: the very functions of `python -m core.training.run`, with a pause between rounds."""

from collections.abc import Iterator
from pathlib import Path

from bench.training.works import Work
from core.child import Stop
from core.events import Step
from core.graders.sandbox import Sandbox
from core.job_spec import TrainSpec
from core.run_dir import PLAN, SPEC, RunDir
from core.training import compiled, loop, optimizers, run
from core.training.checkpoint import Progress
from core.training.plan import Plan


def steps(work: Work, folder: Path, side: str) -> Iterator[tuple[float, int]]:
    """(loss, tokens) of each optimizer step."""
    run_dir = RunDir(folder)
    spec, plan = TrainSpec.model_validate(run_dir.read_json(SPEC)), Plan.model_validate(run_dir.read_json(PLAN))
    inputs = run_dir.inputs()
    run.obey(plan, spec.seed)
    tokenizer = run.load_tokenizer(inputs)
    model, adapter = run.build_model(spec, plan, inputs, tokenizer)
    if plan.compiled:
        compiled.compile_blocks(model)
    optimizer = optimizers.build(spec.optimizer, model)
    with Sandbox() as sandbox:
        prepared = run.assemble(
            spec, plan, inputs, run_dir, model, adapter, None, optimizer, tokenizer, Stop(), sandbox
        )
        progress, before = Progress(micro_batch=plan.micro_batch), 0
        while True:
            for event in loop.take_step(prepared, progress):
                if isinstance(event, Step):
                    yield event.loss, event.tokens - before
                    before = event.tokens
