"""What PEFT makes of an adapter: the reference that exports are compared with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import nn

from whet.models.adapter_source import AdapterFolder, AdapterUpdate
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.models.fused_layout import is_fused, split

_PREFIX = "base_model.model."
# What PEFT's own arithmetic needs; nothing in it names a file, a module to import or a place on the network.
_SCALE_KEYS = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
_SAVED_KEYS = ("modules_to_save", "ensure_weight_tying")


def load_peft_folder(model: nn.Module, folder: Path) -> nn.Module:
    """`model`, a pristine base in memory, with the adapter of `folder` live in it (in place); in evaluation mode."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers by the attribute's old name, and says that a copy of a tied layer is one
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
        loaded: nn.Module = PeftModel.from_pretrained(model, folder).eval()
    return loaded


def attach_live(model: nn.Module, adapter: AdapterFolder, update: AdapterUpdate) -> nn.Module:
    """`model` with `adapter` live in it as PEFT reads its rank, alpha and kind; nothing is merged.

    PEFT gets a copy with only the keys its arithmetic needs: the folder may come from anybody.
    """
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True}
    config |= {key: adapter.config[key] for key in (*_SCALE_KEYS, *_SAVED_KEYS) if adapter.config.get(key)}
    config["target_modules"] = sorted(update.layers)
    tensors = adapter.tensors
    if is_fused(tensors):
        tensors = {f"{_PREFIX}{n}": t for n, t in split(tensors, model.config.to_dict()).items()}  # type: ignore[union-attr,operator]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / ADAPTER_WEIGHTS)
        return load_peft_folder(model, folder)
