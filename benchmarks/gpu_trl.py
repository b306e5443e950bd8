"""The worker of the GPU benchmarks that is TRL: needs trl and datasets, which a bare GPU machine has not."""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from gpu_side import SHAPES, lengths_of, made_up_rows, random_llama, work
from trl_side import Clock


def trl(job: dict[str, Any]) -> dict[str, Any]:
    """TRL's SFTTrainer with PEFT, and liger-kernel where the job says so: the same rows, padded, no recompute."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    shape, device = SHAPES[job["shape"]], torch.device(job["device"])
    rows = made_up_rows(lengths_of(job["lengths"]), job["rows_per_step"] * job["num_steps"], shape.vocabulary)
    dataset = Dataset.from_list(
        [{"input_ids": s.ids.tolist(), "labels": np.where(s.taught, s.ids, -100).tolist()} for s in rows.samples]
    )
    model = random_llama(shape, device, getattr(torch, job["dtype"]))
    adapter = job["adapter"]
    lora = None if adapter.get("method") == "none" else LoraConfig(
        task_type="CAUSAL_LM", r=adapter["rank"], lora_alpha=adapter["alpha"], lora_dropout=adapter["dropout"],
        target_modules="all-linear",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as output:
        arguments = SFTConfig(
            output_dir=output, num_train_epochs=1, per_device_train_batch_size=job["rows_per_pass"],
            gradient_accumulation_steps=job["rows_per_step"] // job["rows_per_pass"], bf16=job["dtype"] == "bfloat16",
            learning_rate=1e-5, lr_scheduler_type="constant", train_sampling_strategy="sequential",
            gradient_checkpointing=False, use_liger_kernel=job.get("uses_liger", False), logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=device.type == "cpu", max_length=None,
        )  # fmt: skip
        trainer = SFTTrainer(
            model, args=arguments, train_dataset=dataset, processing_class=_any_tokenizer(shape.vocabulary),
            peft_config=lora,
        )  # fmt: skip
        clock = Clock()
        trainer.add_callback(clock)
        is_cuda = device.type == "cuda"
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    seconds = [after - before for before, after in pairwise(clock.ends)]
    step_tokens = rows.lengths.reshape(job["num_steps"], -1).sum(1)[1:].tolist()
    rates = [n / s for n, s in zip(step_tokens, seconds, strict=True)]
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "seconds_per_step": seconds,
        "tokens_per_second": statistics.median(rates),
        "range_tokens_per_second": [min(rates), max(rates)],
        "tokens_per_step": statistics.mean(step_tokens),
        "rows_per_step": job["rows_per_step"],
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if is_cuda else None,
    }


def _any_tokenizer(vocabulary: int) -> Any:
    """TRL wants one, though every row is token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(vocabulary)}, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<2>", pad_token="<2>", unk_token="<0>")


if __name__ == "__main__":
    work(sys.argv[sys.argv.index("--worker") + 1], {"trl": trl})
