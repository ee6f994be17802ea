"""What a token dataset amounts to, counted from its tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.data.token_dataset import TokenDataset
from core.data.tokenizer import Tokenizer

TOKENS_AT_ONCE = 1 << 22
Floats = NDArray[np.float64]


def target_counts(datasets: Sequence[TokenDataset], weights: Sequence[float], *, vocab_size: int) -> Floats:
    """How often each id is learned in an epoch."""
    counts = np.zeros(vocab_size)
    for dataset, weight in zip(datasets, weights, strict=True):
        counts += weight * _counts(dataset, vocab_size)
    return counts


def _counts(dataset: TokenDataset, vocab_size: int) -> Floats:
    counts = np.zeros(vocab_size)
    for begin in range(0, dataset.meta.num_tokens, TOKENS_AT_ONCE):
        end = begin + TOKENS_AT_ONCE
        weights = None if dataset.weights is None else dataset.weights[begin:end]
        counts += np.bincount(dataset.ids[begin:end], weights, minlength=vocab_size)
    firsts = dataset.offsets[:-1][np.diff(dataset.offsets) > 0]  # nothing stands before them, so they are no targets
    weights = None if dataset.weights is None else dataset.weights[firsts]
    return counts - np.bincount(dataset.ids[firsts], weights, minlength=vocab_size)


def entropy(counts: Floats) -> float:
    """Of the distribution with these counts, nats: the loss of a model that knows nothing but how often a token comes.

    H = -sum_i p_i ln p_i (Shannon 1948, section 6)
    """
    p = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(p * np.log(p)).sum()) if len(p) else 0.0


def bytes_per_token(counts: Floats, tokenizer: Tokenizer) -> float:
    """Bytes of text that a learned token stands for on average; special tokens stand for none."""
    total = counts.sum()
    if total == 0:
        return 0.0
    return float(counts @ token_sizes(tokenizer, len(counts)) / total)


def token_sizes(tokenizer: Tokenizer, vocab_size: int) -> Floats:
    """Bytes of text that each id stands for; special tokens stand for none."""
    return np.array([0.0 if tokenizer.is_special(id) else len(tokenizer.token_bytes(id)) for id in range(vocab_size)])
