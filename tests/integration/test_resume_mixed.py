"""Killed in the middle of epoch 2 of shuffled, mixed, streamed and packed rows, a run ends as if never stopped.

One source is a file, the other a stream of a hub that runs on this machine. Before the run goes on its token cache is
deleted, so that the stream has to be read and tokenized again.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest
from loopback_hub import LoopbackHub, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("datasets") is None, reason="needs whet[data]"),
]

STREAMED = [{"question": f"Spell {n}. {'Slowly. ' * (n % 5)}", "answer": "a" * (n % 7 + 1)} for n in range(19)]


class _Hub(LoopbackHub):
    rows = "".join(json.dumps(row) + "\n" for row in STREAMED).encode()


@pytest.fixture(scope="module")
def endpoint():
    with serving(_Hub) as address:
        yield address


CASES = {
    "weighted, exact batches": ({"unit": "samples", "global_size": 8, "micro_size": 4}, (3.0, 1.0)),
    "packs": ({"unit": "packs", "global_size": 2, "micro_size": 1}, (None, None)),
}


@pytest.mark.parametrize("case", ["weighted, exact batches", pytest.param("packs", marks=pytest.mark.fault)])
def test_killed_in_epoch_2_of_mixed_streamed_packed_rows_a_run_ends_as_if_never_stopped(workplace, endpoint, case):
    batch, weights = CASES[case]
    sources = [{"source": str(workplace.rows)}, {"source": "owner/open", "stream": True}]
    for source, weight in zip(sources, weights, strict=True):
        if weight is not None:
            source["weight"] = weight
    workplace.environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
    settings = {"data": {"train": sources, "max_length": 160}, "batch": batch, "train": {"epochs": 3, "keep": 2}}
    workplace.write_recipe(**settings, output=str(workplace.folder / "whole"))
    said = workplace.train()
    assert "owner/open [train]: 19 rows" in said and "0 % padding" in said
    plan = json.loads((workplace.folder / "whole" / "run_plan.json").read_text())
    assert plan["total_steps"] == 3 * plan["steps_per_epoch"] and plan["steps_per_epoch"] >= 5
    assert len({step[4] for step in workplace.trajectory("whole")}) == plan["total_steps"]

    workplace.write_recipe(**settings)
    workplace.kill_at(plan["steps_per_epoch"] + 2)
    shutil.rmtree(workplace.folder / "cache" / "tokens")
    said = workplace.train()
    assert "owner/open [train]: reading and tokenizing" in said and "continuing after step" in said
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")
