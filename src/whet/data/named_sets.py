"""Datasets that `whet init` knows by name: which splits train and which are held out, and how their answers look."""

from __future__ import annotations

from dataclasses import dataclass

from whet.data.datasets import dolly, fiqa, gsm8k, metamathqa, squad
from whet.data.datasets.generated import PREFIX
from whet.recipe.draft import AnswerKind, Sets

_SHARED = "A held-out row that asks what a training row asks is left out, counted and named"
_SHORT_ANSWERS = "Answer with a few words taken from the context and nothing else."
_NUM_GENERATED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """What is known of a dataset without fetching it. Lengths are those of nearly all rows, in bytes of UTF-8."""

    sets: Sets
    kind: AnswerKind
    longest_row_bytes: int
    longest_answer_bytes: int


def _on_hub(
    hub_id: str, train: str, validation: str, held_out: str, *, num_train: int, rows: int, system: str | None = None,
    held_out_id: str | None = None,
) -> Sets:  # fmt: skip
    extra = {"system": system} if system else {}
    return Sets(
        train={"source": hub_id, "split": train, **extra},
        validation={"source": hub_id, "split": validation, **extra},
        held_out={"source": held_out_id or hub_id, "split": held_out, "rows": rows, **extra},
        num_train=num_train,
        story=f"Fetched from the hub. {_SHARED}",
        may_share_rows=True,
    )


NAMED_SETS: dict[str, NamedSet] = {
    "gsm8k": NamedSet(
        sets=_on_hub(gsm8k.HUB_ID, "train[200:]", "train[:200]", "test", num_train=7_273, rows=400),
        kind="number",
        longest_row_bytes=2_000,
        longest_answer_bytes=600,
    ),
    "metamathqa": NamedSet(
        sets=_on_hub(
            metamathqa.HUB_ID, "train[200:10200]", "train[:200]", "test", num_train=10_000, rows=400,
            held_out_id=gsm8k.HUB_ID,
        ),
        kind="number",
        longest_row_bytes=6_000,
        longest_answer_bytes=600,
    ),
    "fiqa": NamedSet(
        sets=_on_hub(fiqa.HUB_ID, "train", "validation[:100]", "test", num_train=5_500, rows=100),
        kind="long",
        longest_row_bytes=8_000,
        longest_answer_bytes=512,
    ),
    "dolly": NamedSet(
        sets=_on_hub(dolly.HUB_ID, "train", "validation[:100]", "test", num_train=12_008, rows=100),
        kind="long",
        longest_row_bytes=24_000,
        longest_answer_bytes=512,
    ),
    "squad": NamedSet(
        sets=_on_hub(
            squad.HUB_ID, "train", "validation[:200]", "test", num_train=83_219, rows=400, system=_SHORT_ANSWERS
        ),
        kind="short",
        longest_row_bytes=4_500,
        longest_answer_bytes=64,
    ),
}  # fmt: skip


def generated_set(task: str) -> NamedSet:
    """Generated problems `reasoning-gym:TASK`; train and test problems never coincide."""
    source = f"{PREFIX}{task.removeprefix(PREFIX)}"
    return NamedSet(
        sets=Sets(
            train={"source": source, "rows": _NUM_GENERATED},
            validation={"source": source, "split": "test[128:160]", "rows": 32},
            held_out={"source": source, "split": "test", "rows": 128},
            num_train=_NUM_GENERATED,
            story="Problems are generated here; those of test are never those of train",
        ),
        kind="short",
        longest_row_bytes=2_000,
        longest_answer_bytes=256,
    )
