"""A run that shares what its samples begin with decides so once, says it, and continues bit for bit."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def shares(workplace, run="run"):
    return json.loads((workplace.folder / run / "run_plan.json").read_text())["share_prefix"]


def write(workplace, run="run", **batch):
    source = {"source": str(workplace.rows), "system": "You add numbers, slowly and with care."}
    sections = {"batch": {"global_size": 8, "micro_size": 4, **batch}, "train": {"max_steps": 4}}
    workplace.write_recipe(data={"train": [source]}, output=str(workplace.folder / run), **sections)


@pytest.mark.fault
def test_killed_while_prefixes_are_shared_the_run_ends_as_if_never_stopped(workplace):
    write(workplace, run="whole")
    said = workplace.train()
    assert "tokens that all samples begin with are computed once per pass" in said and shares(workplace, "whole")
    write(workplace)
    workplace.kill_at(2)
    workplace.train()
    assert shares(workplace)
    assert len(workplace.trajectory()) == 4
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")


def test_how_a_step_is_cut_changes_rounding_alone_and_the_recipe_may_say_no(workplace):
    losses = {}
    for run, batch in {"four": {}, "eight": {"micro_size": 8}, "off": {"share_prefix": False}}.items():
        write(workplace, run=run, **batch)
        said = workplace.train()
        losses[run] = [record["loss"] for record in workplace.steps(run)]
        assert shares(workplace, run) == ("begin with" in said) == (run != "off")
    assert losses["eight"] == pytest.approx(losses["four"], rel=1e-4)
    # masks of the prefix are each sample's own then
    assert losses["off"] != losses["four"]
