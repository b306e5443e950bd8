"""Hugging Face's Trainer with PEFT, as its documentation shows it, under the faults of this suite.

`main` is one command: it trains the tiny model of the workplace with LoRA, 8 steps with a checkpoint after each, and
goes on from the newest checkpoint if there is one (`resume_from_checkpoint=True`). Its only argument is the folder of
the run; `TRAINER_SIDE` in the environment changes it (JSON: `learning_rate`, `nan_at`, `stop_at`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

TOTAL_STEPS = 8
RUN = "run"
LOSSES = "losses.json"


def main() -> None:
    """Train to the end, write the adapter and the losses of every step."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    folder, changes = Path(sys.argv[1]), json.loads(os.environ.get("TRAINER_SIDE", "{}"))
    torch.manual_seed(0)
    model, rows = _model_and_rows(Path(changes["model"]))

    class Fault(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step + 1 == changes.get("stop_at"):
                os.kill(os.getpid(), signal.SIGTERM)
            model.spoil = state.global_step + 1 == changes.get("nan_at")

    arguments = TrainingArguments(
        output_dir=str(folder / RUN), max_steps=TOTAL_STEPS, save_steps=1, save_total_limit=3, logging_steps=1,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, seed=0, report_to=[], use_cpu=True,
        remove_unused_columns=False,
        learning_rate=changes.get("learning_rate", 0.005), disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=_collate, callbacks=[Fault()]
    )  # fmt: skip
    has_checkpoint = any((folder / RUN).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if has_checkpoint else None)
    trainer.save_model(str(folder / RUN))
    losses = {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}
    (folder / LOSSES).write_text(json.dumps(losses), encoding="utf-8")


def _model_and_rows(model_folder: Path) -> tuple[Any, list[dict[str, list[int]]]]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaForCausalLM

    class Spoilt(LlamaForCausalLM):
        """One batch may come out as NaN."""

        def forward(self, *arguments: Any, **named: Any) -> Any:
            output = super().forward(*arguments, **named)
            if getattr(model, "spoil", False):
                output.loss = output.loss * float("nan")
            return output

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    base = Spoilt.from_pretrained(model_folder)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    lines = (model_folder.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [f"{row['question']} {row['answer']}<|im_end|>" for row in map(json.loads, lines)]
    return model, [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    padded = [row["input_ids"] + [1] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    ids, attention = torch.tensor(padded), torch.tensor(mask)
    return {"input_ids": ids, "attention_mask": attention, "labels": ids.masked_fill(attention == 0, -100)}
