"""One measured run of TRL's SFTTrainer with PEFT over given samples, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from machine import peak_memory_bytes

SHOWN = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "activation_checkpointing", "packing",
    "packing_strategy", "padding_free", "max_length", "train_sampling_strategy", "optim", "learning_rate",
    "lr_scheduler_type", "max_grad_norm", "weight_decay", "loss_type", "torch_compile", "use_cpu",
)  # fmt: skip
"""Arguments of TRL that a result states, after its defaults are filled in."""


class Clock(TrainerCallback):
    """The time at the end of every optimizer step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.monotonic())


def build(job: dict[str, Any], output: str) -> SFTTrainer:
    """TRL's trainer; `job["settings"]` is everything beyond what both sides must share. Without an adapter all weights
    train."""
    optim, adapter = job["optim"], job["adapter"]
    has_adapter = adapter.get("method") != "none"
    arguments = SFTConfig(
        output_dir=output,
        seed=job["seed"],
        num_train_epochs=1,
        learning_rate=optim["lr"],
        lr_scheduler_type=optim["schedule"],
        weight_decay=optim["weight_decay"],
        max_grad_norm=optim["max_grad_norm"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **job["settings"],
    )
    trainer = SFTTrainer(
        job["model"],
        args=arguments,
        train_dataset=Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in job["rows"]]),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=_lora(adapter) if has_adapter else None,
    )
    if has_adapter:
        set_peft_model_state_dict(trainer.model, load_file(job["first_adapter"]))
    return trainer


def _lora(adapter: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter["rank"],
        lora_alpha=adapter["alpha"],
        lora_dropout=adapter["dropout"],
        target_modules=adapter["targets"],
    )


def padding_share(trainer: SFTTrainer) -> float:
    """Share of the positions in TRL's own batches that its attention mask calls padding."""
    real = total = 0
    for batch in trainer.get_train_dataloader():
        total += batch["input_ids"].numel()
        real += int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
    return 1.0 - real / total


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train every row once; the clock starts when the first step is done. Tokens are those that TRL counts."""
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as output:
        trainer = build(job, output)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    peak = peak_memory_bytes()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    num_tokens = [int(entry["num_tokens"]) for entry in logged]
    model = trainer.model
    layer = (model.get_base_model() if hasattr(model, "get_base_model") else model).model.layers[0].mlp.up_proj
    adapter_dtype = str(layer.lora_A["default"].weight.dtype) if hasattr(layer, "lora_A") else None
    return {
        "tokens_per_second": (num_tokens[-1] - num_tokens[0]) / (clock.ends[-1] - clock.ends[0]),
        "seconds_per_step": [b - a for a, b in pairwise(clock.ends)],
        "num_tokens": num_tokens[-1],
        "losses": [entry["loss"] for entry in logged],
        "padding_share": padding_share(trainer),
        "peak_memory_bytes": peak,
        "configuration": {name: _plain(getattr(trainer.args, name)) for name in SHOWN}
        | {
            "weights_dtype": str(getattr(layer, "base_layer", layer).weight.dtype),
            "adapter_dtype": adapter_dtype,
            "attention": trainer.model.config._attn_implementation,
        },
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else str(getattr(value, "value", value))
