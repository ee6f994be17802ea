"""A small run for each objective: what it learns from, how it is judged, and a rule that needs no learning.

The baseline is the better of that rule and the model before its first step. `margin` is by how much a run must beat it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.learning import baselines as by
from bench.learning.data import Folder, Split

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
    rule: Callable[[Split], float]
    margin: float
    lower: bool = False
    control: Spec | None = None
    """a run whose figure is the baseline too"""


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
CHATS = "LLaMA-Factory's Alpaca samples, English"
SAYS_NUMBER = {
    "type": "python",
    "name": "format",
    "source": "import re\n\n\ndef grade(sample, item):\n"
    "    return float(bool(re.search(r'\\n#### -?[0-9][0-9,.]*$', sample['output_text'].strip())))\n",
}
RECIPES = (
    Recipe("causal_lm", Folder.shakespeare, SHAKESPEARE, run("causal_lm", RANDOM_LLAMA, 400),
           "validation_bits_per_byte", by.unigram_bits, 2.0, lower=True),
    Recipe("causal_lm, Chinese", Folder.tang, TANG, run("causal_lm", RANDOM_LLAMA, 400),
           "validation_bits_per_byte", by.unigram_bits, 2.0, lower=True),
    Recipe("masked_lm", Folder.shakespeare, SHAKESPEARE, run("masked_lm", ENCODER, 600),
           "validation_token_accuracy", by.commonest_or_kept, 0.1),
    Recipe("span_corruption", Folder.shakespeare, SHAKESPEARE, run("span_corruption", T5, 400),
           "validation_token_accuracy", by.commonest_or_sentinel, 0.1),
    Recipe("prefix_lm", Folder.shakespeare, SHAKESPEARE, run("prefix_lm", RANDOM_LLAMA, 300),
           "validation_token_accuracy", by.commonest_byte, 0.2),
    Recipe("fill_in_the_middle", Folder.shakespeare, SHAKESPEARE, run("fill_in_the_middle", RANDOM_LLAMA, 300),
           "validation_token_accuracy", by.commonest_byte, 0.2),
    Recipe("sequence_to_sequence", Folder.translations, "Multi30k, English to German",
           run("sequence_to_sequence", TRANSFORMER, 700, length=64, rows=64, optimizer={"learning_rate": 1e-3},
               objective={"label_smoothing": 0.1}),
           "BLEU", by.copied, 5.0),
    Recipe("supervised", Folder.problems, "GSM8K, solutions", run("supervised", RANDOM_LLAMA, 300, length=512, rows=16),
           "validation_token_accuracy", by.commonest_byte, 0.2),
    Recipe("sequence_classification, polarity", Folder.polarity, "sentence polarity",
           run("sequence_classification", MINILM, 120, length=96), "validation_f1_macro", by.half, 0.2),
    Recipe("sequence_classification, news", Folder.news, "AG news, four classes",
           run("sequence_classification", MINILM, 100, length=96), "validation_accuracy", by.commonest_label, 0.4),
    Recipe("token_classification", Folder.chunks, "CoNLL-2000, chunks",
           run("token_classification", MINILM, 150, length=128, rows=16), "validation_chunk_f1", by.tag_of_word, 0.1),
    Recipe("question_answering", Folder.questions, "CoNLL-2000, the subject of a verb",
           run("question_answering", MINILM, 200, length=128, rows=16), "validation_exact_match", by.words_before, 0.2),
    Recipe("regression", Folder.lengths_of_solutions, "GSM8K, steps of the solution",
           run("regression", MINILM, 150, length=128), "validation_mean_squared_error", by.variance, 0.3, lower=True),
    Recipe("contrastive", Folder.similar, "AG news, headline to text",
           run("contrastive", MINILM, 60, length=96, rows=32), "validation_retrieval_accuracy", by.by_chance(32), 0.4),
    Recipe("supervised, LoRA", Folder.chats, CHATS,
           run("supervised", SMOLLM2, 40, length=384, rows=8, adapter=LORA), "validation_perplexity",
           by.anything, 0.2, lower=True),
    Recipe("supervised, QLoRA", Folder.chats, CHATS,
           run("supervised", SMOLLM2, 40, length=384, rows=8, adapter=LORA | {"quantization": "nf4"}),
           "validation_perplexity", by.anything, 0.2, lower=True),
    Recipe("dpo", Folder.preferences, PREFERENCES,
           run("dpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", by.longer, 0.05),
    Recipe("orpo", Folder.preferences, PREFERENCES,
           run("orpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", by.longer, 0.05),
    Recipe("simpo", Folder.preferences, PREFERENCES,
           run("simpo", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", by.longer, 0.05),
    Recipe("reward", Folder.preferences, PREFERENCES,
           run("reward", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy", by.longer, 0.05),
    Recipe("kto", Folder.judged, "LLaMA-Factory's KTO samples",
           run("kto", SMOLLM2, 40, length=512, rows=8, adapter=LORA), "validation_reward_accuracy",
           by.long_enough, 0.05),
    Recipe("distillation", Folder.shakespeare, SHAKESPEARE,
           run("distillation", RANDOM_LLAMA, 300, objective={"teacher": "pt-teacher", "alpha": 0.7}),
           "validation_perplexity", by.anything, 0.05, lower=True, control=run("causal_lm", RANDOM_LLAMA, 300)),
    Recipe("grpo", Folder.graded, "GSM8K, answers in its format; baseline: the model before",
           run("grpo", {"init": "pretrained", "from": "solver"}, 30, length=384, rows=4,
               objective={"copies": 8, "validation_copies": 4, "max_tokens": 160, "grader": SAYS_NUMBER}),
           "validation_reward", by.nothing, 0.1),
)  # fmt: skip
