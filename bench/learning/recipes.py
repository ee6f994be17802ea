"""A small run for each objective: what it learns from, how it is judged, and what a model would reach that knows only
the commonest answer. `margin` is by how much the run must do better.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.learning.data import Folder, Split
from core.metrics.bleu import Bleu

Spec = dict[str, Any]
RANDOM_LLAMA: Spec = {"init": "random", "family": "llama", "preset": "nano", "tokenizer": "bytes"}
MINILM: Spec = {"init": "pretrained", "from": "MiniLM"}
SMOLLM2: Spec = {"init": "pretrained", "from": "SmolLM2"}
LORA: Spec = {"kind": "lora", "rank": 8}


@dataclass(frozen=True)
class Recipe:
    """`metric` of the job's last evaluation; where `lower`, less is better."""

    name: str
    data: Callable[[Folder], Split]
    source: str
    spec: Spec
    metric: str
    baseline: Callable[[Split], float]
    margin: float
    lower: bool = False
    scale: float = 1.0
    """what the metric is multiplied with to be in the baseline's unit"""


def run(objective: str, model: Spec, steps: int, /, *, length: int = 128, rows: int = 32, **more: Any) -> Spec:
    settings = more.pop("objective", {})
    return {
        "model": model,
        "objective": {"kind": objective} | settings,
        "budget": {"steps": steps},
        "batch": {"sequences": rows},
        "data": {"sequence_length": length},
        "evaluation": {"every": steps, "samples": 1},
        "checkpoints": {"every": steps},
    } | more


def unigram_bits(data: Split) -> float:
    """Bits a byte of who knows how often each byte occurs."""
    counts = Counter(byte for row in data.train for byte in row["text"].encode())
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def commonest_byte(data: Split) -> float:
    counts = Counter(byte for row in data.train for byte in row["text"].encode())
    return max(counts.values()) / sum(counts.values())


def commonest_answer_byte(data: Split) -> float:
    counts = Counter(byte for row in data.train for byte in row["completion"].encode())
    return max(counts.values()) / sum(counts.values())


def commonest_label(data: Split) -> float:
    counts = Counter(row["label"] for row in data.held_out)
    return max(counts.values()) / sum(counts.values())


def variance(data: Split) -> float:
    """Squared error of the mean."""
    values = [row["score"] for row in data.held_out]
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def nothing(data: Split) -> float:
    """A tagger that gives every word the commonest tag, or a reader that answers with the whole text, has no hit."""
    return 0.0


def half(data: Split) -> float:
    return 0.5


def by_chance(rows: int) -> Callable[[Split], float]:
    return lambda data: 1 / rows


def copied(data: Split) -> float:
    """BLEU of the source itself."""
    bleu = Bleu()
    for row in data.held_out:
        bleu.add(row["source"], row["target"])
    return bleu.value


TRANSFORMER: Spec = {
    "init": "random",
    "family": "transformer",
    "dimensions": {"hidden_size": 256, "num_layers": 3, "num_heads": 4, "context_length": 128},
    "tokenizer": "of the data",
    "dropout": 0.1,
}
ENCODER: Spec = {"init": "random", "family": "bert", "preset": "nano", "tokenizer": "bytes"}
T5: Spec = {"init": "random", "family": "t5", "preset": "nano", "tokenizer": "bytes"}
SHAKESPEARE, TANG = "Tiny Shakespeare", "Tang poems (Chinese)"
PREFERENCES = "LLaMA-Factory's DPO samples, English"
SAYS_NUMBER = {
    "type": "python",
    "name": "format",
    "source": "def grade(sample, item):\n    return 1.0 if '####' in sample['output_text'] else 0.0\n",
}
RECIPES = (
    Recipe("causal_lm", Folder.shakespeare, SHAKESPEARE, run("causal_lm", RANDOM_LLAMA, 400, rows=32),
           "validation_loss", unigram_bits, 2.0, lower=True, scale=1 / math.log(2)),
    Recipe("causal_lm, Chinese", Folder.tang, TANG, run("causal_lm", RANDOM_LLAMA, 400),
           "validation_loss", unigram_bits, 2.0, lower=True, scale=1 / math.log(2)),
    Recipe("masked_lm", Folder.shakespeare, SHAKESPEARE, run("masked_lm", ENCODER, 600),
           "validation_token_accuracy", commonest_byte, 0.1),
    Recipe("span_corruption", Folder.shakespeare, SHAKESPEARE, run("span_corruption", T5, 400),
           "validation_token_accuracy", commonest_byte, 0.1),
    Recipe("prefix_lm", Folder.shakespeare, SHAKESPEARE, run("prefix_lm", RANDOM_LLAMA, 300),
           "validation_token_accuracy", commonest_byte, 0.2),
    Recipe("fill_in_the_middle", Folder.shakespeare, SHAKESPEARE, run("fill_in_the_middle", RANDOM_LLAMA, 300),
           "validation_token_accuracy", commonest_byte, 0.2),
    Recipe("sequence_to_sequence", Folder.translations, "Multi30k, English to German",
           run("sequence_to_sequence", TRANSFORMER, 700, length=64, rows=64, optimizer={"learning_rate": 1e-3},
               objective={"label_smoothing": 0.1}),
           "BLEU", copied, 5.0),
    Recipe("supervised", Folder.problems, "GSM8K, solutions", run("supervised", RANDOM_LLAMA, 300, length=512, rows=16),
           "validation_token_accuracy", commonest_answer_byte, 0.2),
    Recipe("sequence_classification, polarity", Folder.polarity, "sentence polarity",
           run("sequence_classification", MINILM, 120, length=96), "validation_f1_macro", half, 0.2),
    Recipe("sequence_classification, news", Folder.news, "AG news, four classes",
           run("sequence_classification", MINILM, 100, length=96), "validation_accuracy", commonest_label, 0.4),
    Recipe("token_classification", Folder.chunks, "CoNLL-2000, chunks",
           run("token_classification", MINILM, 150, length=128, rows=16), "validation_chunk_f1", nothing, 0.6),
    Recipe("question_answering", Folder.questions, "CoNLL-2000, the subject of a verb",
           run("question_answering", MINILM, 200, length=128, rows=16), "validation_exact_match", nothing, 0.4),
    Recipe("regression", Folder.lengths_of_solutions, "GSM8K, steps of the solution",
           run("regression", MINILM, 150, length=128), "validation_mean_squared_error", variance, 0.3, lower=True),
    Recipe("contrastive", Folder.similar, "AG news, headline to text",
           run("contrastive", MINILM, 60, length=96, rows=32), "validation_retrieval_accuracy", by_chance(32), 0.4),
    Recipe("dpo", Folder.preferences, PREFERENCES,
           run("dpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", half, 0.05),
    Recipe("orpo", Folder.preferences, PREFERENCES,
           run("orpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", half, 0.05),
    Recipe("simpo", Folder.preferences, PREFERENCES,
           run("simpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", half, 0.05),
    Recipe("reward", Folder.preferences, PREFERENCES,
           run("reward", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", half, 0.05),
    Recipe("kto", Folder.judged, "LLaMA-Factory's KTO samples",
           run("kto", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", half, 0.05),
    Recipe("distillation", Folder.shakespeare, f"{SHAKESPEARE}; baseline: the same model and steps without a teacher",
           run("distillation", RANDOM_LLAMA, 300, objective={"teacher": "pt-teacher", "alpha": 0.7}),
           "validation_loss", nothing, 0.02, lower=True),
    Recipe("grpo", Folder.graded, "GSM8K, answers in its format; baseline: the model before",
           run("grpo", {"init": "pretrained", "from": "solver"}, 30, length=384, rows=4,
               objective={"copies": 8, "max_tokens": 160, "grader": SAYS_NUMBER}),
           "validation_reward", nothing, 0.1),
)  # fmt: skip
