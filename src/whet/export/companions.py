"""The small files beside exported weights: tokenizer, chat template, generation settings, a README with the base."""

from __future__ import annotations

import json
from pathlib import Path

from whet.export.proof import Proof
from whet.export.source import Source


def write_companions(folder: Path, source: Source) -> None:
    """Tokenizer with its chat template, and generation_config.json with every stop id."""
    source.tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(source.generation, indent=1) + "\n", encoding="utf-8")


def write_readme(folder: Path, source: Source, what: str, proof: Proof | None, *more: str) -> None:
    """README.md: `what` this is, of which base, how it was proved, and `more` paragraphs."""
    base = source.identity
    revision = f" in revision {base.revision}" if base.revision else ""
    lines = [
        f"# {source.folder.resolve().name}",
        f"{what} Its base is {base.id}{revision}, weights SHA-256 {base.weights_sha256}."
        + (f" That base is {base.note}." if base.note else ""),
        *source.notes,
        f"Equality with what was trained: {proof.sentence()} (proof.json)." if proof else "Not proved equal.",
        *more,
    ]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
