"""Memory of one of n ranks that share the work of each layer (tensor and sequence parallelism).

It is that of a model with 1/n of the heads, channels and tokens, and the hidden size and norms of the whole. Between
the blocks a rank holds 1/n of the rows of a pass, all that is kept where whole layers are recomputed. Elsewhere what is
kept is counted as if all rows were: some of it is, as the inputs of blocks are, so the prediction is too high there.
"""

from __future__ import annotations

from dataclasses import replace

from whet.estimate.memory import Job, Pass, Recompute, slack_share
from whet.estimate.scale import memory_parts


def shared_by(job: Job, num_ranks: int) -> Job:
    """What each rank computes and holds. An adapter counts whole: one factor of each pair is, and both are small."""
    norms = (2 * job.num_layers + 1) * job.hidden
    num_base = norms + _part(job.num_base - norms, num_ranks)
    return replace(
        job,
        intermediate=_part(job.intermediate, num_ranks),
        query_size=_part(job.query_size, num_ranks),
        key_size=_part(job.key_size, num_ranks),
        num_heads=_part(job.num_heads, num_ranks),
        vocab=_part(job.vocab, num_ranks),
        num_base=num_base,
        num_trainable=num_base if job.trains_all else job.num_trainable,
    )


def shared_memory_parts(
    job: Job, one_pass: Pass, recompute: Recompute, *, num_shards: int, num_ranks: int
) -> dict[str, int]:
    """Bytes of each part of the peak of a rank: one of `num_ranks` in its group, one of `num_shards` among groups."""
    if num_ranks == 1:
        return memory_parts(job, one_pass, recompute, num_shards)
    parts = memory_parts(shared_by(job, num_ranks), one_pass, recompute, num_shards)
    if recompute == "full":
        activations = _part(parts["activations"], num_ranks)
        slack = int(slack_share(job) * (activations + parts["work"]))
        parts |= {"activations": activations, "slack": slack}
    return parts


def _part(whole: int, num_ranks: int) -> int:
    return -(-whole // num_ranks)
