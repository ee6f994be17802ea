"""What prepared data amounts to: the facts that the plan is made from, and what a person should be warned of."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.data import statistics
from core.data.mixture import Mixture
from core.data.packing import Rows, pack
from core.data.recipe import Recipe
from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.events import Warned
from core.job_spec import TrainSpec
from core.objectives.kto import KTO
from core.run_dir import RunDir
from core.training.plan import Preparation


def facts(
    run_dir: RunDir, spec: TrainSpec, recipe: Recipe, tokenizer: Tokenizer, datasets: Mapping[str, TokenDataset]
) -> Preparation:
    """Count what an epoch shows.

    Raises:
        InvalidData: nothing is supervised.
    """
    length, packing, predicts = spec.data.sequence_length or 512, spec.data.packing, spec.objective.predicts
    train = [datasets[hash] for hash in recipe.train]
    weights = [source.weight for source in spec.data.train]
    rows = [pack(dataset, length=length, packing=packing, seed=spec.seed, predicts=predicts) for dataset in train]
    mixture = Mixture(rows, weights, seed=spec.seed)
    shown = [count / max(len(r), 1) for count, r in zip(mixture.shown, rows, strict=True)]
    supervised = round(sum(part * r.supervised for part, r in zip(shown, rows, strict=True)))
    if not supervised:
        raise _nothing_to_learn(train, length)
    cut = sum(dataset.meta.num_cut for dataset in train)
    _warn(run_dir, rows, length, cut)
    if isinstance(spec.objective, KTO):
        _warn_of_one_side(run_dir, train)
    held = None if recipe.validation is None else datasets[recipe.validation]
    num_validation_rows = 0
    if held is not None:
        num_validation_rows = len(pack(held, length=length, packing=packing, seed=0, predicts=predicts))
    if held is not None and not num_validation_rows:
        _refuse_or_warn_without_validation(run_dir, spec)
    counts = statistics.target_counts(train, weights, vocab_size=tokenizer.vocab_size)
    return Preparation(
        train=recipe.train,
        validation=recipe.validation if num_validation_rows else None,
        num_rows=mixture.num_rows,
        num_tokens=round(sum(part * r.num_tokens for part, r in zip(shown, rows, strict=True))),
        num_supervised_tokens=supervised,
        num_validation_rows=num_validation_rows,
        num_documents=sum(len(dataset) for dataset in train),
        unigram_entropy=statistics.entropy(counts),
        bytes_per_token=statistics.bytes_per_token(counts, tokenizer),
        truncated_documents=sum(r.truncated for r in rows) + cut,
        labels=recipe.encoding.labels,
    )


def _nothing_to_learn(train: Sequence[TokenDataset], length: int) -> InvalidData:
    if any(dataset.meta.num_supervised_tokens for dataset in train):
        return InvalidData(
            f"every answer begins behind the first {length} tokens of its row, so none is learned",
            code="nothing_to_learn",
            param="data.sequence_length",
            hint="raise data.sequence_length, or shorten the prompts",
        )
    return InvalidData(
        "no token has a loss weight: the rendered answers are all empty",
        code="nothing_to_learn",
        hint="look at the file's preview: the chat template may drop the assistant's messages",
    )


def _warn(run_dir: RunDir, rows: Sequence[Rows], length: int, cut: int) -> None:
    """`cut`: examples that were made to fit before they were packed."""
    truncated, dropped = sum(r.truncated for r in rows) + cut, sum(r.dropped for r in rows)
    if truncated:
        run_dir.report(
            Warned(
                code="examples_truncated",
                message=f"{truncated} examples are longer than {length} tokens; what is behind is not learned. "
                "Raise data.sequence_length to keep it",
            )
        )
    if dropped:
        run_dir.report(
            Warned(
                code="examples_dropped",
                message=f"{dropped} examples have no learned token within the first {length} tokens and are left out. "
                "Raise data.sequence_length, or shorten the prompts",
            )
        )


def _warn_of_one_side(run_dir: RunDir, train: Sequence[TokenDataset]) -> None:
    if len({float(label) for dataset in train for label in np.unique(dataset.labels)}) == 1:
        message = "all answers have the same label; only the difference between good and bad ones says what to learn"
        run_dir.report(Warned(code="one_label", message=message))


def _refuse_or_warn_without_validation(run_dir: RunDir, spec: TrainSpec) -> None:
    message = "there is nothing to validate on: holding out needs a file with at least two examples"
    if spec.stop is not None:
        hint = "give data.validation a file, or remove `stop`"
        raise InvalidData(message, code="no_validation", param="data.validation", hint=hint)
    run_dir.report(Warned(code="no_validation", message=message))
