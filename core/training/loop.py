"""The training loop: a generator of events that reads top to bottom. One loop for every objective; no trainer class.

    again and again: evaluate and save where it is due, end where it is time, else take one step
    one step:        batch -> micro-batches -> sums of losses -> one division by the global count -> clip -> optimizer

Under the same plan the bits are the same whether the run was interrupted or not: a batch is a pure function of the
step, and a checkpoint holds everything else that a step reads. A checkpoint is written after the evaluation of its own
step, whose figures it carries; what SIGTERM cuts short is made up for when the run resumes.

Legend: B rows, T positions, D hidden size, N positions that are learned.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.data.batches import Batches, RowBatch
from core.errors import Diverged, StorageFull, TooLarge
from core.events import Entered, Evaluated, Event, Finished, Sampled, Saved, Step, Warned
from core.job_spec import TrainSpec
from core.loss import LOWER_IS_BETTER, Loss
from core.training import optimizers, random_state
from core.training.averaging import Average
from core.training.checkpoint import Progress, SavedCheckpoint
from core.training.plan import Plan
from core.training.rollouts import RolloutBatches, Stopped
from core.training.stats import Forward, Seen, stats_of, survey
from core.training.sums import Sums

Reason = Literal["completed", "early_stopped", "target_reached", "interrupted"]
MAX_SKIPPED_STEPS, SKIP_WINDOW = 3, 100
MAX_FAILED_SAVES = 3
SIGN_OF_LIFE_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """What a run works on, loaded and ready."""

    spec: TrainSpec
    plan: Plan
    forward: Forward
    optimizer: torch.optim.Optimizer
    batches: Batches | RolloutBatches
    validate: Callable[[], Iterator[RowBatch]] | None
    """a fresh pass over the validation rows"""
    write_samples: Callable[[], Iterable[tuple[str, str]]]
    """(prompt, text) pairs"""
    save: Callable[[Progress], SavedCheckpoint]
    should_stop: Callable[[], bool]
    """asked once a step: does somebody want the run to save and end"""
    average: Average | None = None
    """of the weights: evaluated and shown in their place"""
    token_sizes: Tensor | None = None
    """bytes of text that each id stands for, fp64 [V], where the objective reports bits per byte"""
    labels: tuple[str, ...] = ()
    """names of the head's outputs"""


def train(run: Run, progress: Progress) -> Iterator[Event]:
    """Train from `progress` to the end of the budget, or until it is time to stop.

    Raises:
        Diverged: the loss or the gradient was not finite too often; no such update was ever taken.
        StorageFull: no checkpoint could be written three times in a row.
    """
    begun, resumed_step = time.monotonic() - progress.seconds, progress.step
    yield Entered(phase="training")
    while True:
        improved = False
        if evaluation_is_due(run, progress):
            with run.average.in_place() if run.average else nullcontext():
                improved = yield from evaluate(run, progress)
        reason = reason_to_end(run, progress)
        is_due = progress.step != resumed_step and progress.step % run.plan.save_every == 0
        if reason or is_due or (improved and run.spec.checkpoints.keep_best):
            path = yield from save(run, progress, improved=improved, reason=reason)
        if reason:
            yield Finished(
                step=progress.step, reason=reason, path=path, tokens=progress.tokens, metrics=progress.metrics
            )
            return
        yield from take_step(run, progress)
        progress.seconds = time.monotonic() - begun


def take_step(run: Run, progress: Progress) -> Iterator[Event]:
    """One optimizer step on one global batch; none where a number is not finite, or where it is time to end."""
    begun = time.monotonic()
    rate = learning_rate(run, progress)
    try:
        batch = run.batches.batch(progress.step, total_rows=total_rows(run))
    except Stopped:
        return
    loss, metrics = yield from accumulate_gradients(run, progress, batch)
    norm = float(torch.nn.utils.clip_grad_norm_(run.forward.model.parameters(), run.spec.optimizer.max_grad_norm))
    tokens = batch.num_tokens
    progress.step += 1
    progress.tokens += tokens
    if math.isfinite(loss) and math.isfinite(norm):
        optimizers.set_learning_rate(run.optimizer, rate)
        run.optimizer.step()
        if run.average is not None:
            run.average.update(progress.step)
    else:
        yield note_skipped_step(progress, loss=loss, norm=norm, rate=rate)
    seconds = time.monotonic() - begun
    yield Step(
        step=progress.step,
        loss=finite(loss),
        learning_rate=rate,
        grad_norm=finite(norm),
        tokens=progress.tokens,
        tokens_per_second=tokens / seconds,
        seconds=seconds,
        metrics={name: finite(value) for name, value in metrics.items() if name != "nll"},
    )


def accumulate_gradients(
    run: Run, progress: Progress, batch: RowBatch
) -> Generator[Event, None, tuple[float, dict[str, float]]]:
    """Leave the gradient of the mean loss over the global batch in the model; return the mean and further metrics.

    Where that does not fit into memory, the whole batch is begun again with less of it and the same random numbers.
    """
    before = random_state.read()
    while True:
        try:
            return _accumulate_gradients(run, progress.micro_batch, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if progress.micro_batch == 1 and progress.recomputes:
                raise TooLarge(
                    f"A single row of {run.batches.length} tokens does not fit into memory: {error}",
                    code="insufficient_memory",
                    param="data.sequence_length",
                    hint="Shorten data.sequence_length, choose a smaller model, or a machine with more memory.",
                ) from error
        random_state.restore(before)
        yield use_less_memory(run, progress)


def use_less_memory(run: Run, progress: Progress) -> Warned:
    """Halve the micro-batch; where it is a single row, compute activations again instead of keeping them."""
    when = f"Out of memory at step {progress.step + 1}"
    if progress.micro_batch > 1:
        progress.micro_batch //= 2
        message = f"{when}: micro-batches are now {progress.micro_batch} rows."
        return Warned(code="micro_batch_halved", message=message)
    progress.recomputes = True
    run.forward.model.recompute()
    return Warned(code="activations_recomputed", message=f"{when}: activations are now computed twice.")


def _accumulate_gradients(run: Run, micro_batch: int, batch: RowBatch) -> tuple[float, dict[str, float]]:
    run.forward.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    sums = Sums()
    for loss in losses(run, batch, micro_batch):
        loss.sum.backward()  # type: ignore[no-untyped-call]
        sums.add(loss)
    for parameter in run.forward.model.parameters():
        if parameter.grad is not None:
            parameter.grad /= sums.count
    return sums.mean_loss, sums.mean_metrics


def losses(run: Run, batch: RowBatch, micro_batch: int) -> Iterator[Loss]:
    """Of each micro-batch in turn, after a look at the whole batch where the objective wants one."""
    objective = run.spec.objective
    found = survey(objective, run.forward, batch, micro_batch)
    for start in range(0, len(batch), micro_batch):
        part = batch.rows(slice(start, start + micro_batch), device=run.plan.device, whole=run.plan.compiled)
        stats = stats_of(objective, run.forward, part, None if found is None else Seen(found, first_row=start))
        if stats is not None:
            yield objective.loss(stats)


def evaluate(run: Run, progress: Progress) -> Generator[Event, None, bool]:
    """A pass over the validation rows, as running sums, and samples. Returns whether the watched metric improved.

    Stopped halfway, it leaves no trace: the resumed run does it again.
    """
    assert run.validate is not None
    yield Entered(phase="evaluating")
    heard_at = time.monotonic()
    run.forward.model.eval()
    sums, num_bytes = Sums(), 0.0
    for batch in run.validate():
        num_bytes += learned_bytes(run, batch)
        with torch.no_grad():
            for loss in losses(run, batch, progress.micro_batch):
                sums.add(loss)
        if run.should_stop():
            return False
        if time.monotonic() - heard_at > SIGN_OF_LIFE_SECONDS:
            yield Entered(phase="evaluating")
            heard_at = time.monotonic()
    if run.should_stop():  # rows that the model writes itself may end early then
        return False
    means = metrics_of(run, sums, num_bytes)
    watched = run.spec.stop.metric.removeprefix("validation_") if run.spec.stop else "loss"
    shown = {*(run.spec.evaluation.metrics or means), watched} & means.keys()
    progress.metrics = {f"validation_{name}": finite(means[name]) for name in sorted(shown)}
    progress.evaluated_step = progress.step
    yield Evaluated(step=progress.step, metrics=progress.metrics)
    for prompt, text in run.write_samples():
        yield Sampled(step=progress.step, prompt=prompt, text=text)
    yield Entered(phase="training")
    return note_improvement(progress, watched, means[watched], run.spec.stop.min_delta if run.spec.stop else 0.0)


def learned_bytes(run: Run, batch: RowBatch) -> float:
    """Of the text that is learned; 0 where nobody asks."""
    if run.token_sizes is None:
        return 0.0
    lane = batch.lanes[-1]
    return float((run.token_sizes[lane.targets_BT] * lane.weights_BT).sum())


def metrics_of(run: Run, sums: Sums, num_bytes: float) -> dict[str, float]:
    """All that the objective tells about the validation rows."""
    means = sums.mean_metrics | {"loss": sums.mean_loss}
    if "nll" in means:
        nll = means.pop("nll")
        means["perplexity"] = math.exp(min(nll, 700.0))
        if num_bytes > 0.0:
            means["bits_per_byte"] = nll * sums.count / (math.log(2) * num_bytes)
    return means | run.spec.objective.summary(sums.summed_counts, run.labels)


def save(run: Run, progress: Progress, *, improved: bool, reason: Reason | None) -> Generator[Event, None, str | None]:
    """Write a checkpoint; a full disk is survived twice, for others free space. Returns its path, if any."""
    yield Entered(phase="saving")
    failures, progress.failed_saves = progress.failed_saves, 0
    try:
        saved = run.save(progress)
    except StorageFull as error:
        progress.failed_saves = failures + 1
        if reason or progress.failed_saves >= MAX_FAILED_SAVES:
            raise
        yield Warned(code=error.code, message=f"{error.message} The run goes on; the next checkpoint is tried again.")
        yield Entered(phase="training")
        return None
    path = f"{saved.path.parent.name}/{saved.path.name}"
    why: Literal["scheduled", "best", "final", "interrupted"] = "best" if improved else "scheduled"
    yield Saved(
        step=progress.step,
        path=path,
        manifest_sha256=saved.manifest_sha256,
        size_bytes=saved.size_bytes,
        metrics=progress.metrics if progress.evaluated_step == progress.step else {},
        best=improved,
        reason="interrupted" if reason == "interrupted" else "final" if reason else why,
    )
    yield Entered(phase="training")
    return path


def evaluation_is_due(run: Run, progress: Progress) -> bool:
    """Every so many steps and at the end; not twice, and not when somebody waits for the run to end."""
    if run.validate is None or progress.evaluated_step == progress.step or run.should_stop():
        return False
    every = run.plan.evaluate_every
    return fraction_done(run, progress) >= 1.0 or (every is not None and progress.step % every == 0)


def reason_to_end(run: Run, progress: Progress) -> Reason | None:
    """The target is reached, patience or the budget is spent, or somebody asked."""
    stop, evaluated = run.spec.stop, progress.evaluated_step == progress.step > 0
    if stop is not None and evaluated:
        value = progress.metrics[stop.metric]
        if stop.target is not None and (value <= stop.target if is_loss_like(stop.metric) else value >= stop.target):
            return "target_reached"
        if stop.patience is not None and progress.evaluations_without_improvement >= stop.patience:
            return "early_stopped"
    if fraction_done(run, progress) >= 1.0 and (evaluated or run.validate is None):
        return "completed"
    return "interrupted" if run.should_stop() else None


def note_improvement(progress: Progress, name: str, value: float, min_delta: float) -> bool:
    """Remember the best value of the watched metric, and for how many evaluations it has not improved."""
    gain = -value if is_loss_like(name) else value
    improved = math.isfinite(gain) and (progress.best is None or gain > progress.best + min_delta)
    progress.best = gain if improved else progress.best
    progress.evaluations_without_improvement = 0 if improved else progress.evaluations_without_improvement + 1
    return improved


def is_loss_like(metric: str) -> bool:
    """Less is better."""
    return metric.removeprefix("validation_") in LOWER_IS_BETTER


def learning_rate(run: Run, progress: Progress) -> float:
    """Of the next step: the schedule at the step's middle, so that neither the first nor the last step is wasted."""
    return (run.spec.optimizer.learning_rate or 0.0) * run.spec.schedule.factor(fraction_done(run, progress, ahead=0.5))


def fraction_done(run: Run, progress: Progress, *, ahead: float = 0.0) -> float:
    """How much of the budget is spent, `ahead` steps from now."""
    if run.plan.total_steps is not None:
        return (progress.step + ahead) / run.plan.total_steps
    per_step = progress.seconds / max(progress.step, 1)
    return (progress.seconds + ahead * per_step) / (run.spec.budget.seconds or 1.0)


def total_rows(run: Run) -> int | None:
    """Rows of the whole run, where the budget is in epochs: the last batch may be short."""
    epochs = run.spec.budget.epochs
    return None if epochs is None else math.ceil(epochs * run.batches.num_rows)


def note_skipped_step(progress: Progress, *, loss: float, norm: float, rate: float) -> Warned:
    """Remember a step whose update was not taken; too many of them end the run."""
    recent = [step for step in progress.skipped_steps if step > progress.step - SKIP_WINDOW]
    progress.skipped_steps = [*recent, progress.step]
    facts = f"step {progress.step}: loss {loss}, gradient norm {norm}, learning rate {rate:.2e}"
    if len(progress.skipped_steps) > MAX_SKIPPED_STEPS:
        raise Diverged(
            f"The loss or its gradient was not finite in {len(progress.skipped_steps)} of the last {SKIP_WINDOW} "
            f"steps; last at {facts}. No such update was taken; the last checkpoint is good.",
            hint="Lower optimizer.learning_rate, lengthen the warm-up, or use precision fp32.",
        )
    return Warned(code="nonfinite_step", message=f"No update was taken at {facts}.")


def is_out_of_memory(error: RuntimeError) -> bool:
    """On a CPU, torch has no class for it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def finite(value: float) -> float:
    """JSON has no NaN: a figure that is not finite is reported as the largest number there is."""
    return value if math.isfinite(value) else 1.7976931348623157e308
