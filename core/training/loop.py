"""The training loop: a generator of events that reads top to bottom. One loop for every objective; no trainer class.

    each step: batch -> micro-batches -> sums of losses -> one division by the global count -> clip -> AdamW

Under the same plan the bits are the same whether the run was interrupted or not: a batch is a pure function of the
step, and a checkpoint holds everything else that a step reads.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from core.data.batches import Batches, RowBatch
from core.errors import Diverged, StorageFull
from core.events import Entered, Evaluated, Event, Finished, Sampled, Saved, Step, Warned
from core.job_spec import TrainSpec
from core.loss import Loss
from core.models.attention import packed_attention
from core.models.transformer import Decoder
from core.training.checkpoint import Progress, SavedCheckpoint
from core.training.likelihood import token_stats
from core.training.plan import Plan

Reason = Literal["completed", "early_stopped", "target_reached", "interrupted"]
MAX_SKIPPED_STEPS, SKIP_WINDOW = 3, 100
MAX_FAILED_SAVES = 3


@dataclass
class Run:
    """What a run works on, loaded and ready."""

    spec: TrainSpec
    plan: Plan
    model: Decoder
    optimizer: torch.optim.Optimizer
    batches: Batches
    validate: Callable[[], Iterator[RowBatch]] | None
    """a fresh pass over the validation rows"""
    save: Callable[[Progress], SavedCheckpoint]
    write_samples: Callable[[], Sequence[tuple[str, str]]]
    """(prompt, text) pairs"""
    should_stop: Callable[[], bool]
    """asked once a step: does somebody want the run to save and end"""
    micro_batch: int = field(init=False)
    failed_saves: int = 0

    def __post_init__(self) -> None:
        self.micro_batch = self.plan.micro_batch


def train(run: Run, progress: Progress) -> Iterator[Event]:
    """Train from `progress` to the end of the budget, or until it is time to stop.

    Raises:
        Diverged: the loss or the gradient was not finite too often; no such update was ever taken.
        StorageFull: no checkpoint could be written three times in a row.
    """
    yield Entered(phase="training")
    reason = end_of_budget(run, progress)
    while True:
        if reason is None:
            yield from take_step(run, progress)
            reason = end_of_budget(run, progress)
        improved = False
        if run.validate is not None and (reason or is_due(progress.step, run.plan.evaluate_every)):
            improved = yield from evaluate(run, progress, run.validate)
            reason = reason or reason_to_stop_early(run.spec, progress)
        if reason is None and run.should_stop():
            reason = "interrupted"
        keep_it = improved and run.spec.checkpoints.keep_best
        if reason or keep_it or is_due(progress.step, run.plan.save_every):
            path = yield from save(run, progress, improved=improved, reason=reason)
            if reason:
                yield Finished(
                    step=progress.step, reason=reason, path=path, tokens=progress.tokens, metrics=progress.metrics
                )
                return


def take_step(run: Run, progress: Progress) -> Iterator[Event]:
    """One optimizer step on one global batch."""
    begun = time.monotonic()
    optimizer, spec = run.optimizer, run.spec
    rate = (spec.optimizer.learning_rate or 0.0) * spec.schedule.factor(fraction_done(run, progress, ahead=1))
    batch = run.batches.batch(progress.step, total_rows=total_rows(run))
    random_state = torch.get_rng_state()
    while True:
        try:
            loss, metrics = accumulate_gradients(run, batch)
            break
        except torch.OutOfMemoryError:
            if run.micro_batch == 1:
                raise
            run.micro_batch //= 2
            torch.set_rng_state(random_state)
            yield Warned(
                code="micro_batch_halved",
                message=f"Out of memory at step {progress.step + 1}: going on with micro-batches of {run.micro_batch}.",
            )
    norm = float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), spec.optimizer.max_grad_norm))
    progress.step += 1
    if math.isfinite(loss) and math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    else:
        yield skip(progress, loss=loss, norm=norm, rate=rate)
    optimizer.zero_grad(set_to_none=True)
    tokens = int((batch.segments_BT > 0).sum())
    seconds = time.monotonic() - begun
    progress.tokens += tokens
    progress.seconds += seconds
    yield Step(
        step=progress.step,
        loss=finite(loss),
        learning_rate=rate,
        grad_norm=finite(norm),
        tokens=progress.tokens,
        tokens_per_second=tokens / seconds,
        seconds=seconds,
        metrics=metrics,
    )


def accumulate_gradients(run: Run, batch: RowBatch) -> tuple[float, dict[str, float]]:
    """Gradients of the mean loss over the global batch, one micro-batch at a time: sums first, one division last."""
    run.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    total, count, sums = 0.0, 0.0, dict[str, float]()
    for start in range(0, len(batch.ids_BT), run.micro_batch):
        loss = loss_of(run, batch, slice(start, start + run.micro_batch))
        if loss is None:
            continue
        loss.sum.backward()  # type: ignore[no-untyped-call]
        total, count = total + float(loss.sum), count + float(loss.count)
        for name, value in loss.metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    count = count or 1.0
    for parameter in run.model.parameters():
        if parameter.grad is not None:
            parameter.grad /= count
    return total / count, {name: finite(value / count) for name, value in sums.items()}


def evaluate(run: Run, progress: Progress, validate: Callable[[], Iterator[RowBatch]]) -> Generator[Event, None, bool]:
    """A pass over the validation rows, as running sums. Returns whether the watched metric improved."""
    yield Entered(phase="evaluating")
    run.model.eval()
    total, count, sums = 0.0, 0.0, dict[str, float]()
    with torch.no_grad():
        for batch in validate():
            loss = loss_of(run, batch, slice(None))
            if loss is None:
                continue
            total, count = total + float(loss.sum), count + float(loss.count)
            for name, value in loss.metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        mean = total / max(count, 1.0)
        means = {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
        means |= {name: value / max(count, 1.0) for name, value in sums.items()}
        watched = run.spec.stop.metric.removeprefix("validation_") if run.spec.stop else "loss"
        shown = {*run.spec.evaluation.metrics, watched}
        progress.metrics = {f"validation_{name}": finite(means[name]) for name in sorted(shown) if name in means}
        yield Evaluated(step=progress.step, metrics=progress.metrics)
        for prompt, text in run.write_samples():
            yield Sampled(step=progress.step, prompt=prompt, text=text)
    yield Entered(phase="training")
    return note_improvement(progress, watched, means[watched], run.spec.stop.min_delta if run.spec.stop else 0.0)


def loss_of(run: Run, batch: RowBatch, rows: slice) -> Loss | None:
    """The objective's sum and count over some rows of a batch; None where nothing is to be learned."""
    device = torch.device(run.plan.device)
    ids_BT, positions_BT = batch.ids_BT[rows].to(device), batch.positions_BT[rows].to(device)
    weights_BT = batch.weights_BT[rows].to(device)
    attend = packed_attention(batch.segments_BT[rows].to(device), kind=run.plan.attention)
    learned_N = weights_BT.flatten().nonzero()[:, 0]
    if len(learned_N) == 0:
        return None
    dtype = torch.bfloat16 if run.plan.precision == "bf16" else torch.float32
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        hidden_BTD = run.model(ids_BT, positions_BT, attend)
    stats = token_stats(
        hidden_BTD.flatten(0, 1)[learned_N],
        run.model.lm_head.weight,
        batch.targets_BT[rows].to(device).flatten()[learned_N],
        weights_BT.flatten()[learned_N],
        dtype=dtype,
    )
    return run.spec.objective.loss(stats)


def save(run: Run, progress: Progress, *, improved: bool, reason: Reason | None) -> Generator[Event, None, str | None]:
    """Write a checkpoint; a full disk is survived twice, for others free space. Returns its path, if any."""
    yield Entered(phase="saving")
    try:
        saved = run.save(progress)
    except StorageFull as error:
        run.failed_saves += 1
        if reason or run.failed_saves >= MAX_FAILED_SAVES:
            raise
        yield Warned(code=error.code, message=f"{error.message} The run goes on; the next checkpoint is tried again.")
        yield Entered(phase="training")
        return None
    run.failed_saves = 0
    path = f"checkpoints/{saved.path.name}"
    why: Literal["scheduled", "best", "final", "interrupted"] = "best" if improved else "scheduled"
    yield Saved(
        step=progress.step,
        path=path,
        manifest_sha256=saved.manifest_sha256,
        size_bytes=saved.size_bytes,
        metrics=progress.metrics,
        best=improved,
        reason="interrupted" if reason == "interrupted" else "final" if reason else why,
    )
    yield Entered(phase="training")
    return path


def note_improvement(progress: Progress, name: str, value: float, min_delta: float) -> bool:
    """Remember the best value of the watched metric, and for how many evaluations it has not improved."""
    gain = value if name == "token_accuracy" else -value
    improved = math.isfinite(gain) and (progress.best is None or gain > progress.best + min_delta)
    progress.best = gain if improved else progress.best
    progress.evaluations_without_improvement = 0 if improved else progress.evaluations_without_improvement + 1
    return improved


def reason_to_stop_early(spec: TrainSpec, progress: Progress) -> Reason | None:
    """The target is reached, or patience is at its end."""
    if spec.stop is None:
        return None
    value, target = progress.metrics[spec.stop.metric], spec.stop.target
    if target is not None:
        reached = value >= target if spec.stop.metric == "validation_token_accuracy" else value <= target
        if reached:
            return "target_reached"
    patience = spec.stop.patience
    return "early_stopped" if patience and progress.evaluations_without_improvement >= patience else None


def end_of_budget(run: Run, progress: Progress) -> Reason | None:
    return "completed" if fraction_done(run, progress) >= 1.0 else None


def fraction_done(run: Run, progress: Progress, *, ahead: int = 0) -> float:
    """How much of the budget is spent, `ahead` steps from now."""
    if run.plan.total_steps is not None:
        return (progress.step + ahead) / run.plan.total_steps
    return progress.seconds / (run.spec.budget.seconds or 1.0)


def total_rows(run: Run) -> int | None:
    """Rows of the whole run, where the budget is in epochs: the last batch may be short."""
    epochs = run.spec.budget.epochs
    return None if epochs is None else math.ceil(epochs * run.batches.num_rows)


def is_due(step: int, every: int | None) -> bool:
    return bool(every) and step % (every or 1) == 0


def skip(progress: Progress, *, loss: float, norm: float, rate: float) -> Warned:
    """Note a step whose update was not taken; too many of them end the run."""
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


def finite(value: float) -> float:
    """JSON has no NaN: a figure that is not finite is reported as the largest number there is."""
    return value if math.isfinite(value) else 1.7976931348623157e308
