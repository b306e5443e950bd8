"""The formula of each part of the predicted peak in words, for people; the numbers are made in estimate/memory.py."""

from __future__ import annotations

from whet.estimate.memory import Job, Pass, Recompute, slack_share

_KEPT = {
    "none": "all that its backward pass needs",
    "norms": "all that its backward pass needs but the outputs of the norms",
    "mlp": "what attention needs; the second half is computed anew",
    "full": "its input alone; the rest is computed anew",
}


def formula(part: str, job: Job, one_pass: Pass, recompute: Recompute, *, num_shards: int = 1) -> str:
    """How `part` of the peak is counted, with the numbers that went in."""
    own = f", of which a rank has 1/{num_shards} of each tensor" if num_shards > 1 else ""
    words = {
        "process": _process(job),
        "weights": f"{_weights(job, is_cut=num_shards > 1)}{own}",
        "gradients": f"{_gradients(job, one_pass)}{own}",
        "moments": f"{_moments(job)}{own}",
        "checkpoint": "a copy of what trains and its moments, while it is written beside training",
        "snapshot": "a copy of what trains and its moments, for train.guard to go back to",
        "activations": f"{one_pass.tokens:,} tokens of the largest pass x {job.num_layers} layers, each keeping "
        f"{_KEPT[recompute]}",
        "work": "the larger of the gradients inside one layer (and what of it was made anew) and one block of logits",
        "slack": f"{slack_share(job):.0%} of activations and working memory: holes that the allocator cannot fill",
        "gathered": "two blocks of layers, the one in use and the next, and embedding and head, whole",
        "reducing": "gradients of a block, and of embedding and head, on their way to their ranks",
        "loading": "while the model is read: the process, the weights in their file, and as they are held",
    }
    return words[part]


def _process(job: Job) -> str:
    what = "Python, torch, transformers and PEFT" if job.device == "cpu" else "driver, CUDA context and kernels"
    return f"{what} (assumed)"


def _weights(job: Job, *, is_cut: bool) -> str:
    narrow = job.compute_bytes
    if job.trains_all:
        if not job.is_widened:
            masters = f" and float32 masters of {job.master_bytes}" if job.master_bytes else ""
            return f"{job.num_base:,} weights x {narrow} bytes{masters}"
        copies = f", and {narrow} for the narrow copies of a pass" if narrow < 4 and not is_cut else ""
        return f"{job.num_base:,} weights x {max(narrow, 4)} bytes{copies}"
    if job.base_bytes is not None:
        return f"{job.num_base:,} frozen weights, rounded, and {job.num_trainable:,} of the adapter x 4 bytes"
    return f"{job.num_base:,} frozen weights x {narrow} bytes and {job.num_trainable:,} of the adapter x 4 bytes"


def _gradients(job: Job, one_pass: Pass) -> str:
    is_narrow = job.trains_all and not job.is_widened
    num_bytes = job.compute_bytes if is_narrow else max(job.compute_bytes, 4)
    words = f"{job.num_trainable:,} weights that train x {num_bytes} bytes"
    if one_pass.is_alone and job.trains_all and job.stream_bytes == job.compute_bytes:
        return f"{words}, less the activations whose place they take (one pass a step)"
    return words


def _moments(job: Job) -> str:
    each = job.moment_bytes if job.trains_all and not job.is_widened else 8
    return f"Adam's two for each of {job.num_trainable:,} weights that train: {each:g} bytes"
