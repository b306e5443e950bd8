"""Other tools' names are answered with whet's, and every answer is true of both sides."""

from __future__ import annotations

import dataclasses
import re

import pytest

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.fields import all_keys
from whet.recipe.foreign import EXPLAINED, RENAMED, SECTIONS, foreign_full_name, foreign_name
from whet.recipe.problems import dotted

OUR_KEYS = {dotted(key) for key in all_keys()}
BASE = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\n"


def answers(text: str) -> dict[str, str]:
    """Key -> answer, of the unknown keys of a recipe."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE + text, "r.yaml")
    return dict(re.findall(r"r\.yaml:\d+ (\S+): unknown (?:key|section)(.*)", str(caught.value)))


def test_every_answer_names_a_key_that_exists():
    assert set(RENAMED.values()) <= OUR_KEYS
    named = {name for sentence in EXPLAINED.values() for name in re.findall(r"`([^`]+)`", sentence)}
    assert named <= OUR_KEYS
    assert {part for sections in SECTIONS.values() for part in re.findall(r"\w+", sections)} - {"and"} <= OUR_KEYS


def test_a_name_has_one_answer_only():
    assert not set(RENAMED) & set(EXPLAINED)


@pytest.mark.parametrize(("library", "config"), [("peft", "LoraConfig"), ("trl", "SFTConfig")])
def test_the_settings_of_the_installed_libraries_are_answered(library, config):
    fields = dataclasses.fields(getattr(pytest.importorskip(library), config))
    ours = {str(key[-1]) for key in all_keys()}
    unanswered = [field.name for field in fields if field.name not in ours and foreign_name(field.name) is None]
    # a later version may add a few; a table that fell behind may not pass
    assert len(unanswered) <= 0.1 * len(fields), unanswered


def test_hugging_face_names_are_answered_at_any_place():
    text = (
        "learning_rate: 1\ntrain: {num_train_epochs: 3, eval_steps: 5}\nadapter: {r: 8, lora_alpha: 16, bias: none}\n"
    )
    assert answers(text) == {
        "learning_rate": ": here it is optim.lr",
        "train.num_train_epochs": ": here it is train.epochs",
        "train.eval_steps": ": here it is train.eval_every",
        "adapter.r": ": here it is adapter.rank",
        "adapter.lora_alpha": ": here it is adapter.alpha",
        "adapter.bias": ": LoRA adds no bias terms",
    }


def test_a_lora_ns_file_is_answered_key_by_key():
    text = """\
task_name: gsm8k
task_type: CAUSAL_LM
model:
  name_or_path: meta-llama/Llama-3.1-8B
  token: true
peft:
  method: lora
  lora_r: 32
  init_lora_weights: pissa
  use_rslora: true
trainer:
  refactor_every: 100
  warmup_steps: 50
dataset:
  name: openai/gsm8k
  subset: main
  max_length: 1024
training:
  output_dir: out
  num_train_epochs: 5
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 2
  learning_rate: 3e-4
  optim: adamw_torch_fused
  max_steps: 10
wandb:
  project: x
"""
    found = answers(text)
    assert len(found) == len(text.splitlines()) - 1  # every key but our own `model`
    assert found["peft"] == ": these settings are in adapter"
    assert found["peft.lora_r"] == ": here it is adapter.rank"
    assert found["model.name_or_path"] == ": here it is model.id"
    assert found["dataset.name"] == ": here it is data.train.0.source"
    assert found["dataset.max_length"] == ": max_length belongs to data: data.max_length"
    assert found["training.max_steps"] == ": max_steps belongs to train: train.max_steps"
    assert "HF_TOKEN" in found["model.token"]
    assert "batch.global_size" in found["training.gradient_accumulation_steps"]
    assert found["trainer.refactor_every"] == ": here it is callbacks.0.every"
    assert found["trainer.warmup_steps"] == ": here it is callbacks.0.warmup_steps"
    assert found["peft.init_lora_weights"] == ": here it is adapter.init"
    assert found["peft.use_rslora"] == ": here it is adapter.rslora"


def test_the_answer_depends_on_the_section_where_the_name_means_two_things():
    assert foreign_full_name(("trainer", "warmup_steps")) != foreign_name("warmup_steps")
