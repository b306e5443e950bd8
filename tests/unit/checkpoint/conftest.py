"""Small checkpoints, as the training loop writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from whet.checkpoint.save import save_checkpoint


@pytest.fixture
def save(tmp_path: Path) -> Callable[[int], Path]:
    """Writes the checkpoint of a step into tmp_path."""

    def write(step: int) -> Path:
        return save_checkpoint(
            tmp_path,
            step=step,
            tensors={"model.safetensors": {"w": torch.full((64,), float(step))}},
            documents={"state.json": {"step": step}, "recipe.yaml": "name: x\n"},
            files={"tokenizer.json": b"{}"},
        )

    return write
