"""Proposals keep within the memory, change the speed before the result, and say which is which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.devices import DEVICES
from whet.models.families import KNOWN
from whet.recipe import dump_recipe, parse_recipe
from whet.train.fit_memory import propose
from whet.train.foresee import Target, foresee
from whet.train.foreseen_rows import assume_rows

LLAMA = KNOWN["meta-llama/Llama-3.1-8B"]
TARGET = Target(
    name="H100", device="cuda", num_ranks=1, compute_bytes=2, memory_bytes=80e9, gpu=DEVICES["h100"]
)  # fmt: skip


def recipe(*overrides):
    text = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}], max_length: 2048}\nbatch: {global_size: 16}\n"
    return parse_recipe(text, "r.yaml", overrides)


def needs(made, memory_bytes):
    rows = assume_rows(made, num_rows=5000, mean_length=2048, longest=None, why="no row was read")
    return foresee(made, LLAMA, rows, replace(TARGET, memory_bytes=memory_bytes))


def fitted(made, memory_bytes):
    return propose(made, memory_bytes, needs)


FIXED = ("batch.micro_size=4", "train.recompute=none")


def test_what_fits_needs_no_change():
    assert fitted(recipe(*FIXED), 80e9).steps == ()


def test_an_adapter_on_24_gb_changes_the_speed_alone():
    proposal = fitted(recipe(*FIXED), 24e9)
    assert proposal.fits and proposal.steps and not any(step.changes_result for step in proposal.steps)
    assert all(step.saved_bytes > 0 for step in proposal.steps)


def test_the_result_is_changed_where_speed_is_not_enough_and_that_is_said():
    proposal = fitted(recipe(*FIXED), 14e9)
    kinds = [step.changes_result for step in proposal.steps]
    assert proposal.fits and kinds == sorted(kinds) and kinds[-1]
    assert any(step.change.startswith("model.quantize=") for step in proposal.steps)


@pytest.mark.parametrize("memory_bytes", [14e9, 24e9, 48e9])
def test_the_recipe_with_its_changes_needs_what_the_proposal_says(memory_bytes):
    proposal = fitted(recipe(*FIXED), memory_bytes)
    changed = parse_recipe(dump_recipe(recipe(*FIXED)), "r", [step.change for step in proposal.steps])
    assert needs(changed, memory_bytes).peak_bytes == proposal.foreseen.peak_bytes <= memory_bytes


def test_all_weights_of_8b_fit_60_gb_with_moments_of_8_bits_alone():
    proposal = fitted(recipe("adapter.method=none", "optim.lr=1e-5"), 60e9)
    assert proposal.fits
    assert [step.change for step in proposal.steps if step.changes_result] == ["optim.name=adamw_8bit"]


def test_where_nothing_is_enough_all_that_helps_is_said():
    proposal = fitted(recipe(*FIXED), 2e9)
    assert not proposal.fits and proposal.steps
