"""A finished run with an evaluation set that came into its recipe afterwards, as it may."""

from __future__ import annotations

from pathlib import Path

from workplace import Uninterrupted, Workplace, write_rows

EVALUATE = {"name": "sums", "max_new_tokens": 4, "batch_rows": 4, "metrics": ["exact_match"]}
QUESTIONS = [{"question": f"Add {n} to {n * 7}.", "answer": f"It is {n * 8}."} for n in range(30, 42)]


def with_questions(place: Workplace, uninterrupted: Uninterrupted) -> Path:
    """The run folder; 12 questions are not answered yet."""
    write_rows(place.folder / "sums.jsonl", QUESTIONS)
    place.write_recipe(evaluate=[EVALUATE | {"source": {"source": str(place.folder / "sums.jsonl")}}])
    run = uninterrupted.copy_to(place, is_finished=True)
    (run / "recipe.yaml").write_text(place.recipe.read_text())
    return run
