from __future__ import annotations

import subprocess
import sys

import pytest

from whet.train.bottleneck import Passes, bottleneck, split
from whet.types import PARTS_OF_STEP

PLAIN = Passes(recompute="none", tokens_per_pass=2000.0, num_per_step=4)
NOTHING = dict.fromkeys((*PARTS_OF_STEP, "other", "evaluation"), 0.0)


def of(passes=PLAIN, **seconds):
    return bottleneck(NOTHING | seconds, passes)


@pytest.mark.parametrize(
    ("seconds", "share", "mend"),
    [
        ({"data": 31, "forward": 30, "backward": 39}, "31% of the time waits for rows", "WHET_CACHE"),
        ({"save": 12, "forward": 30, "backward": 58}, "12% of the time waits for checkpoints", "train.save_every"),
        (
            {"communication": 40, "forward": 20, "backward": 40},
            "40% of the time goes into sending",
            "batch.global_size",
        ),
        ({"optimizer": 20, "forward": 30, "backward": 50}, "20% of the time is the optimizer's", "batch.global_size"),
        ({"evaluation": 50, "forward": 20, "backward": 30}, "50% of the time measures", "train.eval_every"),
        ({"other": 25, "forward": 25, "backward": 50}, "25% of the time is spent beside", "batch.global_size"),
    ],
)
def test_what_a_setting_could_save_is_named_with_the_setting(seconds, share, mend):
    said = of(**seconds)
    assert said.startswith(share) and mend in said


def test_of_two_such_parts_the_larger_one_is_named():
    assert "waits for rows" in of(data=20, save=10, forward=30, backward=40)
    assert "waits for checkpoints" in of(data=10, save=20, forward=30, backward=40)


@pytest.mark.parametrize(("part", "least"), [("data", 5), ("save", 5), ("communication", 15), ("optimizer", 15)])
def test_below_its_threshold_a_part_is_not_worth_a_word(part, least):
    rest = {"forward": 30.0, "backward": 70.0 - least}
    assert f"{least}% of the time" in of(**{part: float(least)}, **rest)
    assert "forward and" in of(**{part: least - 0.1}, **rest | {"forward": 30.1})


def test_else_the_models_own_arithmetic_is_what_takes_time():
    said = of(forward=35, backward=60, data=1)
    assert said.startswith("36% of the time is forward and 62% backward") and "data.max_length" in said


def test_recomputation_is_named_where_it_is_on():
    said = of(Passes(recompute="full", tokens_per_pass=100.0, num_per_step=4), forward=30, backward=60)
    assert "train.recompute=none" in said


@pytest.mark.parametrize(
    ("num_per_step", "num_lanes", "helps"), [(4, 1, True), (4, 2, True), (1, 1, False), (2, 2, False)]
)
def test_small_passes_one_after_the_other_are_named(num_per_step, num_lanes, helps):
    passes = Passes(recompute="none", tokens_per_pass=300.0, num_per_step=num_per_step, num_lanes=num_lanes)
    assert ("batch.micro_size=auto" in of(passes, forward=3, backward=6)) == helps


def test_the_parts_and_the_rest_make_up_the_whole():
    parts = dict.fromkeys(PARTS_OF_STEP, 1.0)
    whole = split(parts, seconds=10.0, evaluation=3.0)
    assert whole["other"] == 4.0 and sum(whole.values()) == 13.0
    assert split(parts, seconds=5.9999, evaluation=0.0)["other"] == 0.0


def test_a_run_without_a_step_says_nothing():
    assert of() == "" and of(evaluation=3.0) == ""


def test_the_rule_is_free_of_torch():
    code = "import sys, whet.train.bottleneck; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
