"""Token classification: a tag for each word (part of speech, or B-X I-X O around names and phrases).

    L = - sum_n log q_n(tag_n)

n runs over the words; a word is learned at its first token (Devlin et al. 2019, arXiv:1810.04805, section 5.3).
Tags with the prefixes B I O (or E and S besides) mark chunks, as Ramshaw and Marcus 1995, cmp-lg/9505040, do; a chunk
is found where its first word, its last word and its kind are right (Tjong Kim Sang and Buchholz 2000, section 3).
Where the tags have no such prefixes, each word is a chunk of its own.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from core.data.examples import Tagged
from core.data.packing import SAME, Predicts
from core.loss import Loss, ObjectiveSpec, TagStats
from core.metrics.f1 import f1
from core.models.config import Head, Kind

if TYPE_CHECKING:
    from torch import Tensor


class TokenClassification(ObjectiveSpec):
    """Learning to tag words."""

    kind: Literal["token_classification"] = "token_classification"

    consumes: ClassVar[tuple[type, ...]] = (Tagged,)
    reads: ClassVar[type] = TagStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder")
    head: ClassVar[Head] = "tagger"
    predicts: ClassVar[Predicts] = SAME
    windows: ClassVar[bool] = True
    names_labels: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "token_accuracy", "chunk_f1", "chunk_precision", "chunk_recall")

    def loss(self, stats: TagStats) -> Loss:
        """Sum over the words, and their number."""
        from torch.nn.functional import cross_entropy

        said_N = stats.logits_NC.argmax(-1)
        true_starts_N, true_ends_N = chunks(stats.tags_N, stats)
        said_starts_N, said_ends_N = chunks(said_N, stats)
        same_kind_N = stats.kind_C[stats.tags_N] == stats.kind_C[said_N]
        found_N = true_starts_N & said_starts_N & same_kind_N & (next_true(true_ends_N) == next_true(said_ends_N))
        return Loss(
            sum=cross_entropy(stats.logits_NC, stats.tags_N, reduction="sum"),
            count=stats.logits_NC.new_tensor(float(len(said_N))),
            metrics={"token_accuracy": (said_N == stats.tags_N).float().sum()},
            counts={"found": found_N.sum(), "said": said_starts_N.sum(), "there": true_starts_N.sum()},
        )

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """Precision: how many of the chunks that were said are right; recall: how many of the right ones were said."""
        found, said, there = (counts[name][0] for name in ("found", "said", "there"))
        return {
            "chunk_precision": found / max(said, 1.0),
            "chunk_recall": found / max(there, 1.0),
            "chunk_f1": f1(found, said - found, there - found),
        }


def chunks(tags_N: "Tensor", stats: TagStats) -> "tuple[Tensor, Tensor]":
    """At which words chunks begin and end, as the evaluation of CoNLL-2000 reads tags: a chunk begins at a tag that
    opens one, after one that closes one, and where the kind changes."""
    kind_N, opens_N, closes_N = stats.kind_C[tags_N], stats.opens_C[tags_N], stats.closes_C[tags_N]
    joins_N = kind_N.new_zeros(len(tags_N) + 1).bool()
    """word n goes on with the chunk of word n - 1"""
    joins_N[1:-1] = (
        (stats.example_N[1:] == stats.example_N[:-1]) & (kind_N[1:] == kind_N[:-1]) & ~opens_N[1:] & ~closes_N[:-1]
    )
    inside_N = kind_N >= 0
    return inside_N & ~joins_N[:-1], inside_N & ~joins_N[1:]


def next_true(flags_N: "Tensor") -> "Tensor":
    """Of each place, the nearest one at or behind it that is true; their number where there is none."""
    import torch

    places_N = torch.arange(len(flags_N), device=flags_N.device)
    places_N = torch.where(flags_N, places_N, len(flags_N))
    return places_N.flip(0).cummin(0).values.flip(0)
