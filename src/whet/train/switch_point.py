"""How attention is computed on this machine: on the CPU where it changes its path, measured once and remembered in the
user's cache folder; on a GPU by whose function."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from typing import cast

import torch

from whet.atomic import write_text
from whet.cache import cache_folder
from whet.data.pipeline import PreparedData
from whet.errors import StorageError
from whet.estimate.hardware import processor_name
from whet.json_text import read_json
from whet.kernels import attention_varlen
from whet.kernels.switch_point import LENGTHS, measure_switch_point
from whet.models.load import LoadedModel
from whet.parallel.env import Env
from whet.parallel.reduce import broadcast_text
from whet.types import RunPlan

_log = logging.getLogger(__name__)


def with_switch_point(plan: RunPlan, loaded: LoadedModel, data: PreparedData, env: Env) -> RunPlan:
    """`plan` with the longest document that takes the matrix path, or with whose function a GPU takes; rank 0's choice.

    Only for runs that begin: which path a document takes decides the last bits of its loss, so a continued run keeps
    the value of its plan. Nothing is measured where every row is short.
    """
    if plan.device != "cpu":
        heads = attention_varlen.heads_of(loaded.model, loaded.compute_dtype)
        kind = attention_varlen.choose(heads, torch.device(plan.device)) if env.is_main else None
        return replace(plan, attention=cast(attention_varlen.Kind, broadcast_text(kind)))
    sets = (data.train, data.validation) if data.validation else (data.train,)
    if max(int(tokens.lengths.max()) for tokens in sets) <= LENGTHS[0]:
        return plan
    config = loaded.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    shape = (config.num_attention_heads, num_kv_heads, head_dim)
    longest = remembered_switch_point(shape, loaded.compute_dtype) if env.is_main else None
    return replace(plan, longest_matmul_document=int(broadcast_text(None if longest is None else str(longest))))


def remembered_switch_point(shape: tuple[int, int, int], dtype: torch.dtype) -> int:
    """The limit for (query heads, key heads, head dimension) on this processor; measured if nothing is remembered."""
    state = {
        # virtual machines often give one name to several kinds of processor
        "processor": f"{processor_name()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "measured": "by one thread",
        "shape": list(shape),
        "dtype": str(dtype),
    }
    name = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]
    memo_path = cache_folder() / "switch_points" / f"{name}.json"
    try:
        memo = read_json(memo_path.read_bytes())
        if memo["state"] == state:
            return int(memo["longest_matmul_document"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or not readable: it is measured
    longest = measure_switch_point(*shape, dtype)
    try:
        write_text(memo_path, json.dumps({"state": state, "longest_matmul_document": longest}))
    except StorageError as error:
        _log.warning("the switch point of attention cannot be remembered and is measured at every start: %s", error)
    return longest
