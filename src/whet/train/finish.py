"""Final files of a run: weights where other tools look for them, and a summary. Nothing non-finite is saved."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from whet import cache
from whet.atomic import file_mode, sync_file, write_text
from whet.checkpoint.load import Checkpoint
from whet.checkpoint.manifest import NAME
from whet.checkpoint.names import weight_shards
from whet.checkpoint.save import storage_error, write_files
from whet.errors import NonFiniteError, StorageError
from whet.json_text import read_object
from whet.models.adapters import FULL_WEIGHTS
from whet.models.load import LoadedModel
from whet.models.weight_files import list_tensors, read_tensor, write_sharded
from whet.parallel import watch
from whet.recipe.measured import PREFIX
from whet.report.metrics_log import finite
from whet.tracking.jsonl import FILE_NAME as METRICS
from whet.train.bottleneck import Passes, bottleneck, split
from whet.train.folder import SUMMARY, write_json
from whet.train.incidents import read_incidents, sentences
from whet.train.loop import Training
from whet.train.utilisation import flops_per_token, utilisation
from whet.types import PARTS_OF_STEP

_DRAFT = ".final.tmp"
MAX_FILE_BYTES = 5_000_000_000
"""of a file of the final model; a larger model has an index"""


def tokenizer_files(tokenizer: Any, run_folder: Path) -> dict[str, bytes]:
    """The files that belong to the tokenizer, name -> content, made once for all checkpoints.

    Held in memory because tokenizers reports a full disk as a bare Exception, which a save could not tell from a bug.
    StorageError where there is no room for them.
    """
    try:
        with TemporaryDirectory(prefix=".tokenizer.", suffix=".tmp", dir=run_folder) as folder:
            tokenizer.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    except Exception as error:
        if not isinstance(error, OSError) and "os error" not in str(error):
            raise
        raise StorageError(
            f"the tokenizer's files could not be written: {error}", where=str(run_folder),
            mend="free space on that disk, or choose another `output`",
        ) from error  # fmt: skip


def write_final(
    run_folder: Path, training: Training, loaded: LoadedModel, files: Mapping[str, bytes],
    saved: Checkpoint | None = None,
) -> None:  # fmt: skip
    """Adapter or model, the tokenizer's `files` and generation settings into the run folder's root, manifest last.

    The weights are read from `saved` where no rank holds all of them. A model passes through with memory for one of its
    tensors. NonFiniteError, with nothing written, when a weight is not finite; StorageError when the disk refuses.
    """
    trainables = training.trainables
    adapter: dict[str, Tensor] = {}
    if trainables.is_adapter:
        adapter = saved.tensors(trainables.weights_file) if saved else trainables.tensors()
    _refuse_broken(run_folder, trainables.named if saved is None else adapter)
    documents = dict(trainables.documents)
    if not trainables.is_adapter:
        documents["config.json"] = documents["config.json"] | {"dtype": str(loaded.compute_dtype).split(".")[-1]}
    generation = loaded.model.generation_config.to_dict() | {"eos_token_id": list(loaded.stop_ids)}
    documents["generation_config.json"] = json.loads(json.dumps(generation, default=str))
    draft = run_folder / _DRAFT
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        tensors = {trainables.weights_file: adapter} if trainables.is_adapter else {}
        write_files(draft, tensors=tensors, documents=documents, files=files)
        if not trainables.is_adapter:
            write_model(draft, saved.folder if saved else trainables.named, loaded.compute_dtype)
        _put_in_place(draft, run_folder)
    except NonFiniteError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except (OSError, SafetensorError) as error:
        described = storage_error(error, run_folder / trainables.weights_file)
        shutil.rmtree(draft, ignore_errors=True)
        raise described from error


def _refuse_broken(run_folder: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise NonFiniteError(
            f"{len(broken)} trained tensors are not finite, first {broken[0]}; no final model was written",
            where=str(run_folder),
            mend="continue from an earlier checkpoint with a lower optim.lr",
        )


def write_model(draft: Path, weights: Mapping[str, Tensor] | Path, dtype: torch.dtype) -> None:
    """All weights in `dtype`, one after the other, from memory or from a checkpoint folder."""
    read: Callable[[str], Tensor]
    if isinstance(weights, Path):
        stored = list_tensors(weight_shards(weights) or (weights / FULL_WEIGHTS,))
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        read = lambda name: read_tensor(stored[name])  # noqa: E731
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        read = weights.__getitem__
    in_file = {name: (shape, dtype) for name, shape in sorted(shapes.items())}
    write_sharded(draft, in_file, read, max_shard_bytes=MAX_FILE_BYTES)
    for path in draft.glob("model*"):
        path.chmod(file_mode())
        sync_file(path)


def _put_in_place(draft: Path, run_folder: Path) -> None:
    """Move the files of `draft` into `run_folder`; the manifest is removed first and written last."""
    names = sorted(p.name for p in draft.iterdir())
    (run_folder / NAME).unlink(missing_ok=True)
    for path in run_folder.glob("model*.safetensors*"):
        path.unlink()  # an earlier end of this run may have had other files
    for name in names:
        (draft / name).replace(run_folder / name)
    draft.rmdir()
    sync_file(run_folder)
    sums = {name: cache.digest_of(run_folder / name) for name in names}
    write_text(run_folder / NAME, json.dumps({"format_version": 1, "sha256": sums}, indent=1) + "\n")


def write_summary(
    run_folder: Path, training: Training, *, status: str, steps: int, final_step: int | None = None
) -> None:
    """summary.json: totals over all sessions of the run, read from metrics.jsonl, and what it ended with.

    `final_step` is the step of the final weights, if there are any.
    """
    plan, totals = training.plan, read_totals(run_folder / METRICS)
    # in no line yet: the wait for the last checkpoint
    rest = training.laps.take(0.0)
    parts = {name: seconds + rest[f"{name}_seconds"] for name, seconds in totals.parts.items()}
    by_part = split(parts, seconds=totals.seconds + rest["seconds"], evaluation=totals.evaluation_seconds)
    tokens_per_pass = totals.num_tokens / max(1, totals.num_steps * plan.accumulation * plan.world_size)
    passes = Passes(
        recompute=plan.recompute, tokens_per_pass=tokens_per_pass, num_per_step=plan.accumulation,
        num_lanes=plan.num_lanes,
    )  # fmt: skip
    where_time_went = bottleneck(by_part, passes)
    ended = _best_and_last(training, steps, final_step)
    peak = peak_memory_bytes(training.device)
    memory = _memory_sentence(plan.predicted_memory_bytes, peak, training.device)
    straggler = training.pace.sentence(watch.host_of)
    incidents = sentences(read_incidents(run_folder))
    document = {
        "status": status,
        "steps": steps,
        "total_steps": plan.total_steps,
        "seconds": totals.seconds,
        "tokens": totals.num_tokens,
        "tokens_per_second": totals.num_tokens / totals.seconds if totals.seconds else None,
        "mfu": utilisation(
            flops=flops_per_token(training.model, training.trainables.named, is_adapter=training.trainables.is_adapter),
            num_tokens=totals.num_tokens,
            seconds=totals.seconds,
            device=training.device,
            num_devices=plan.world_size,
            compute_dtype=plan.compute_dtype,
        ),
        "last_train_loss": totals.last_loss,
        **ended,
        "sentences": [*filter(None, (*ended["sentences"], where_time_went, straggler, memory)), *incidents],
        "incidents": incidents,
        "bottleneck": where_time_went,
        "seconds_by_part": by_part,
        "startup_seconds": dict(training.startup_seconds),
        "num_trainable": training.trainables.num_parameters,
        "peak_memory_bytes": peak,
        "predicted_memory_bytes": plan.predicted_memory_bytes,
        "predicted_memory_parts": plan.predicted_memory_parts,
        "planned_seconds_per_step": plan.measured_seconds_per_step,
        "kernels": dict(training.kernels),
    }
    write_json(run_folder / SUMMARY, document)


@dataclass(slots=True, kw_only=True)
class _Totals:
    """Sums over the lines of metrics.jsonl."""

    seconds: float = 0.0
    """of steps"""
    evaluation_seconds: float = 0.0
    num_tokens: int = 0
    num_steps: int = 0
    last_loss: float | None = None
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS_OF_STEP, 0.0))
    """seconds of each part of the steps"""


def read_totals(path: Path) -> _Totals:
    """What the log adds up to. A damaged line, or a value that is no number, counts as nothing: the run did end."""
    totals = _Totals()
    for line in path.read_bytes().splitlines():
        record = read_object(line) or {}
        seconds = finite(record.get("seconds")) or 0.0
        if record.get("kind") == "eval":
            totals.evaluation_seconds += seconds
        if record.get("kind") != "step":
            continue
        totals.seconds += seconds
        totals.num_tokens += int(finite(record.get("num_tokens")) or 0)
        totals.num_steps += 1
        totals.last_loss = finite(record.get("loss"))
        for name in PARTS_OF_STEP:
            totals.parts[name] += finite(record.get(f"{name}_seconds")) or 0.0
    return totals


def _best_and_last(training: Training, steps: int, final_step: int | None) -> dict[str, Any]:
    """Which step was best and by what, whether the run stopped early, whose weights it ended with; and all in words."""
    best = training.best
    name = f"{PREFIX}{best.name}"
    stopped_early = None
    sentences = [best.sentence()]
    if final_step is not None and steps < training.plan.total_steps:
        after = f"{best.num_without_improvement} measurements of {name} in a row brought nothing better"
        sentence = f"stopped early after step {steps:,}: {after}"
        stopped_early = {"step": steps, "metric": name, "patience": best.patience, "sentence": sentence}
        sentences.append(sentence)
    if final_step is not None and final_step != steps:
        sentences.append(f"the final weights are those of step {final_step:,}, the best")
    return {
        "best_step": best.step,
        "best_metric": name if best.step is not None else None,
        "best_value": best.value,
        "best_validation_loss": best.value if best.name == "loss" else None,
        "stopped_early": stopped_early,
        "final_step": final_step,
        "sentences": [sentence for sentence in sentences if sentence],
    }


def _memory_sentence(predicted: int | None, peak: int, device: torch.device) -> str | None:
    if predicted is None:
        return None
    held = ""
    if device.type == "cuda":
        held = (
            f" of tensors on the GPU ({torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB with the allocator's holes)"
        )
    return f"memory: {peak / 1e9:.2f} GB{held} at the peak, {predicted / 1e9:.2f} GB were predicted"


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process on `device` (the resident set on the CPU)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
