"""Specs for the reference: what a user may send, each of them valid."""

from typing import Any

FILE = "file-9LmQ4xTzVb2NsWc7RkYpHd3A"
MODEL = "pt:default:plays:1a2b3c4d"

TRAIN: dict[str, Any] = {
    "kind": "train",
    "suffix": "plays",
    "model": {"init": "random", "family": "llama", "preset": "nano", "tokenizer": "bytes"},
    "data": {"train": [{"file": FILE}], "validation": {"fraction": 0.02}, "sequence_length": 256},
    "objective": {"kind": "causal_lm"},
    "budget": {"steps": 300},
    "seed": 7,
}
FINE_TUNE: dict[str, Any] = {
    "kind": "train",
    "suffix": "helper",
    "model": {"init": "pretrained", "from": MODEL},
    "data": {"train": [{"file": FILE}]},
    "objective": {"kind": "supervised"},
    "budget": {"epochs": 3},
}
TOKENIZER: dict[str, Any] = {
    "kind": "tokenizer",
    "algorithm": "bpe",
    "vocab_size": 8192,
    "data": {"train": [{"file": FILE}]},
}
GRADER: dict[str, Any] = {
    "type": "multi",
    "name": "answer and brevity",
    "graders": {
        "right": {
            "type": "string_check",
            "name": "right",
            "operation": "like",
            "input": "{{sample.output_text}}",
            "reference": "{{item.reference_answer}}",
        },
        "short": {
            "type": "python",
            "name": "short",
            "source": "def grade(sample, item):\n    return 1 / (1 + len(sample['output_text']) / 100)\n",
        },
    },
    "calculate_output": "0.8 * right + 0.2 * short",
}
REINFORCE: dict[str, Any] = {
    "kind": "train",
    "suffix": "solver",
    "model": {"init": "pretrained", "from": MODEL},
    "data": {"train": [{"file": FILE}], "validation": {"fraction": 0.05}},
    "objective": {"kind": "grpo", "grader": GRADER, "copies": 8, "max_tokens": 128},
    "budget": {"steps": 200},
    "stop": {"metric": "validation_reward", "target": 0.9},
}
