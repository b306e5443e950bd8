"""What the user asks an export for. Every function of the table `whet.export.EXPORTS` takes a `Request`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Say = Callable[[str], None]
Dtype = Literal["auto", "float32", "bfloat16", "q8_0"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One export. Invariant: nothing exists under `target(...)` before it, and after a failure."""

    run_folder: Path
    """run folder, one of its checkpoints, or an adapter folder of another tool"""
    output: Path | None = None
    """where to write; None: a folder beside `run_folder`"""
    base: str | None = None
    """model id or folder of the base; None: the one that the run's recipe names"""
    dtype: Dtype = "auto"
    """number format of the written weights; `auto`: as each format says. A format refuses what it does not have."""
    is_proved: bool = True
    """whether source and artefact are compared on the prompts; takes memory for the model in float32"""
    max_shard_bytes: int = 2_000_000_000
    """largest weight file of a merged model"""
    say: Say = print
    """where sentences for people go"""

    def target(self, kind: str) -> Path:
        """The folder that an export of `kind` (`adapter`, `hf`, ...) writes."""
        folder = self.run_folder.resolve()
        return self.output or folder.with_name(f"{folder.name}-{kind}")
