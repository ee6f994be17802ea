"""Examples of embeddings and classifications."""

from typing import Any

_LABELLED = {
    "index": 0,
    "object": "classification",
    "label": "positive",
    "labels": [{"label": "positive", "score": 0.97}, {"label": "negative", "score": 0.03}],
}

BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/embeddings": {
        "texts": {"value": {"model": "minilm", "input": ["A cat sits on the mat.", "一只猫坐在垫子上。"]}},
    },
    "POST /v1/classifications": {
        "texts": {"summary": "labels, or a value", "value": {"model": "polarity", "input": ["A joy.", "Too long."]}},
        "pair": {
            "summary": "two texts together",
            "value": {"model": "nli", "input": {"text": "It rains.", "text_pair": "The street is wet."}},
        },
        "tags": {"summary": "words, and what they join to", "value": {"model": "chunks", "input": "He reckons so."}},
        "question": {
            "summary": "where the answer stands",
            "value": {"model": "qa", "input": {"question": "Who wrote it?", "context": "It was written by Ada."}},
        },
        "reward": {
            "summary": "how good an answer is",
            "value": {
                "model": "judge",
                "input": {
                    "messages": [
                        {"role": "user", "content": "2+2?"},
                        {"role": "assistant", "content": "4"},
                    ]
                },
            },
        },
    },
}
ANSWERS: dict[str, tuple[str, Any]] = {
    "POST /v1/embeddings": (
        "application/json",
        {
            "object": "list",
            "model": "minilm",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.023, -0.041, 0.087]}],
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        },
    ),
    "POST /v1/classifications": (
        "application/json",
        {
            "id": "clsf-1",
            "object": "list",
            "created": 1795488741,
            "model": "polarity",
            "data": [_LABELLED],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        },
    ),
}
