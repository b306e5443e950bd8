"""The small files beside exported weights: tokenizer, chat template, generation settings, a README with the base."""

from __future__ import annotations

import json
from pathlib import Path

from whet.export.model_card import Card, write_model_card
from whet.export.proof import Proof
from whet.export.source import Source


def write_companions(folder: Path, source: Source) -> None:
    """Tokenizer with its chat template, and generation_config.json with every stop id."""
    source.tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(source.generation, indent=1) + "\n", encoding="utf-8")


def write_readme(folder: Path, source: Source, what: str, proof: Proof | None, *more: str) -> None:
    """README.md: the model card, with `what` this is, how it was proved, and `more` paragraphs."""
    card = Card(
        run_folder=source.folder,
        title=source.folder.resolve().name,
        what=what,
        base=source.identity,
        base_folder=source.base.folder,
        proof=proof.sentence() if proof else None,
        notes=source.notes,
        more=more,
    )
    write_model_card(folder, card)
