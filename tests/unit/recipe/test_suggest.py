"""An unknown key is answered with where it belongs or the nearest key that exists."""

from __future__ import annotations

import pytest

from whet.recipe.suggest import unknown_key
from whet.recipe.yaml_tree import MapNode, Scalar

VALUE = Scalar("1", False, "r.yaml:1")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (("adapter", "lr"), "unknown key: lr belongs to optim: optim.lr"),
        (("train", "seed"), "unknown key: seed belongs to the top of the recipe: seed"),
        (("adapter", "rnak"), "unknown key, did you mean adapter.rank?"),
        (("batch", "globl_size"), "unknown key, did you mean batch.global_size?"),
        (("data", "train", 0, "splits"), "unknown key, did you mean data.train.0.split?"),
        (("model", "learnin_rate"), "unknown key; model takes id, revision, dtype, quantize, loader"),
        (("optim", "max_step"), "unknown key, did you mean train.max_steps?"),
        (("optimizer",), "unknown key, did you mean optim?"),
        (("epochs",), "unknown key: epochs belongs to train: train.epochs"),
        (("learning_rate",), "unknown key: here it is optim.lr"),
        (
            ("optim", "split"),
            "unknown key: split belongs to data.train.0: data.train.0.split "
            "or data.validation.0: data.validation.0.split or evaluate.0.source: evaluate.0.source.split",
        ),
    ],
)
def test_an_unknown_key_is_led_home_or_to_the_nearest_name(path, answer):
    assert unknown_key(path, VALUE) == [(path, answer)]


def test_another_tools_section_is_answered_key_by_key():
    node = MapNode({"lora_r": VALUE, "lora_alpha": VALUE}, "r.yaml:1")
    assert unknown_key(("peft",), node) == [
        (("peft",), "unknown section: these settings are in adapter"),
        (("peft", "lora_r"), "unknown key: here it is adapter.rank"),
        (("peft", "lora_alpha"), "unknown key: here it is adapter.alpha"),
    ]
