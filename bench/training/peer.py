"""The peer: Hugging Face's Trainer (with `peft` for LoRA), as its documentation says, with a pause between rounds."""

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.training.works import IGNORED, RATE, SEED, THREADS, Work


def steps(work: Work, folder: Path, side: str) -> Iterator[tuple[float, int]]:
    """(loss, tokens) of each optimizer step. The Trainer runs in a thread that waits until a step is asked for."""
    torch.set_num_threads(THREADS)
    asked: Queue[None] = Queue()
    told: Queue[tuple[float, int] | BaseException] = Queue()
    counter = Counter(asked, told)
    trainer = trainer_of(work, folder, side, counter)

    def train() -> None:
        torch.set_num_threads(THREADS)
        try:
            trainer.train()
        except BaseException as error:
            told.put(error)

    threading.Thread(target=train, daemon=True).start()
    while True:
        asked.put(None)
        answer = told.get()
        if isinstance(answer, BaseException):
            raise answer
        yield answer


class Counter(TrainerCallback):
    """Waits before each step, and tells of it behind it. Its collator's batches say how many tokens there were."""

    def __init__(self, asked: Any, told: Any) -> None:
        self.asked, self.told, self.tokens, self.loss = asked, told, 0, 0.0
        self.seen: list[int] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.asked.get()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.told.put((float(logs["loss"]), self.seen.pop(0)))


def trainer_of(work: Work, folder: Path, side: str, counter: Counter) -> Trainer:
    kind = AutoModelForMaskedLM if work.objective == "masked_lm" else AutoModelForCausalLM
    model = kind.from_pretrained(folder / "init", dtype=torch.float32)
    model.config.use_cache = False
    if work.lora:
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    arguments = TrainingArguments(
        output_dir=str(folder / side), use_cpu=True, bf16=True, per_device_train_batch_size=work.sequences,
        learning_rate=RATE, weight_decay=0.1, adam_beta2=0.999, max_grad_norm=1.0, lr_scheduler_type="constant",
        optim="adamw_torch_fused", torch_compile=side == "compile", max_steps=1_000_000, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, seed=SEED, remove_unused_columns=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    data, collate = data_of(work, folder)

    def counted(rows: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        mask = batch.get("attention_mask")
        counter.seen.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
        return batch

    trainer = InOrder(model=model, args=arguments, train_dataset=data, data_collator=counted, callbacks=[counter])
    trainer.remove_callback(PrinterCallback)
    return trainer


class InOrder(Trainer):
    """Reads the rows in the order that both sides share."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)


class Rows(Dataset):  # type: ignore[type-arg]
    def __init__(self, rows: list[dict[str, torch.Tensor]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.rows[i]


def data_of(work: Work, folder: Path) -> tuple[Rows, Any]:
    stored = np.load(folder / "rows.npz")
    if work.chat:
        count = sum(name.startswith("ids_") for name in stored.files)
        rows = [
            {"ids": torch.tensor(stored[f"ids_{i}"]), "w": torch.tensor(stored[f"weights_{i}"])} for i in range(count)
        ]
        order = np.random.default_rng(SEED).permutation(count)
        return Rows([rows[i] for i in order]), padded
    ids, targets = torch.from_numpy(stored["ids"]), torch.from_numpy(stored["targets"])
    if work.objective == "masked_lm":
        tokenizer = AutoTokenizer.from_pretrained(folder / "init")
        mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        return Rows([{"input_ids": row} for row in ids]), mask
    return Rows([{"input_ids": i, "labels": i, "shift_labels": t} for i, t in zip(ids, targets, strict=True)]), stacked


def stacked(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """To the longest of the batch, as `DataCollatorForSeq2Seq` does."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row["ids"] for row in rows], batch_first=True)
    there = pad([torch.ones_like(row["ids"]) for row in rows], batch_first=True)
    labels = pad([row["ids"].masked_fill(row["w"] == 0, IGNORED) for row in rows], True, IGNORED)
    return {"input_ids": ids, "attention_mask": there, "labels": labels}
