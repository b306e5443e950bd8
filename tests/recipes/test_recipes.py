"""Every recipe in recipes/ loads, has no problem, survives a round trip and says how to run it; so does configs/."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.cli.preview import preview_run
from whet.cli.recipe import app
from whet.cli.recipe_file import load_any_recipe
from whet.models.families import KNOWN, num_lora_parameters
from whet.recipe import Recipe, dump_recipe, find_problems, load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
FILES = pytest.mark.parametrize("path", [*RECIPES, *CONFIGS], ids=lambda p: str(p.relative_to(ROOT)))


def header(path: Path) -> str:
    """The comment at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def commands(path: Path) -> list[list[str]]:
    """The commands that a header gives, each as its words."""
    lines = re.findall(r"^#   (\S.*)$", header(path), re.MULTILINE)
    return [shlex.split(line, comments=False) for line in lines]


def loaded(path: Path, overrides: list[str] | None = None) -> Recipe:
    return load_any_recipe(path, overrides or [], lambda _: None)


def shown(path: str, *arguments: str) -> dict[str, object]:
    """What `whet recipe show --json` says."""
    result = CliRunner().invoke(app, ["show", str(ROOT / path), "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_there_are_recipes() -> None:
    names = {str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in RECIPES}
    assert names >= {
        "demo",
        *(f"llama3-8b/{name}" for name in ("sft_dolly", "lora_squad")),
        "llama3-8b-instruct/lora_squad",
        *(f"llama3-70b/{name}" for name in ("sft_dolly", "lora_squad")),
        "nemotron-nano-8b/fiqa_lora",
        *(f"llama3.1-8b/{name}" for name in ("metamathqa_lora", "gsm8k_lora")),
        *(f"smollm2-135m/{n}" for n in ("sft", "lora", "metamathqa_10k", "gsm8k", "fiqa", "squad", "dolly")),
    }
    assert CONFIGS


@FILES
def test_a_recipe_loads_resolves_and_survives_a_round_trip(path: Path) -> None:
    recipe = loaded(path)
    assert find_problems(recipe) == []
    assert parse_recipe(dump_recipe(recipe)) == recipe
    preview = preview_run(recipe)
    assert preview.plan is not None and preview.weights is not None, preview.unknown


@FILES
def test_a_recipe_says_how_to_run_it_and_what_was_measured(path: Path) -> None:
    name = path.relative_to(ROOT)
    assert f"train.py --config {name}" in header(path) or f"whet train {name}" in header(path)
    assert "easured" in header(path)


@FILES
def test_every_setting_in_a_header_s_commands_exists(path: Path) -> None:
    for words in commands(path):
        assert str(path.relative_to(ROOT)) in words, words
        overrides = [word for word in words if re.match(r"[a-z_]+(\.\w+)*=", word)]
        assert preview_run(loaded(path, overrides), num_rows=1000).plan is not None


@FILES
def test_held_out_rows_are_answered_and_none_of_them_is_trained_on(path: Path) -> None:
    recipe = loaded(path)
    assert recipe.evaluate, "a recipe that cannot say whether tuning helped"
    assert find_problems(recipe) == []  # among them: shared rows


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_run_folder_carries_the_name_of_the_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    where = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    assert recipe.output == f"runs/{where}"
    assert recipe.name == re.sub(r"[/_]", "-", where)


# The golden arithmetic


def test_fiqa() -> None:
    fiqa = shown("recipes/nemotron-nano-8b/fiqa_lora.yaml")
    assert (fiqa["num_rows"], fiqa["global_batch"]) == (5_500, 16)
    assert (fiqa["total_steps"], fiqa["warmup_steps"]) == (1_032, 104)
    weights = fiqa["weights"]
    assert weights["num_trainable"] == 6_815_744
    assert weights["final_bytes"] == 27_262_976  # 27.26 MB in float32
    assert f"{weights['share']:.4%}" == "0.0848%"


def test_metamathqa() -> None:
    for path in ("recipes/llama3.1-8b/metamathqa_lora.yaml", "configs/Llama-3.1/llama3.1_8b_metamath.yaml"):
        run = shown(path)
        assert (run["num_rows"], run["global_batch"], run["total_steps"]) == (394_900, 128, 6_172)
        assert run["plan"]["steps_per_epoch"] == 3_086  # the guide resumes from checkpoint-3086, an epoch's end
        assert run["weights"]["num_trainable"] == 83_886_080 and run["warmup_steps"] == 186
        assert shown(path, "--world-size", "16")["total_steps"] == 6_172  # two nodes change nothing


def test_gsm8k() -> None:
    for path in ("recipes/llama3.1-8b/gsm8k_lora.yaml", "configs/Llama-3.1/llama3.1_8b_gsm8k.yaml"):
        run = shown(path)
        assert (run["num_rows"], run["global_batch"], run["total_steps"]) == (7_473, 64, 585)
        assert run["weights"]["num_trainable"] == 83_886_080 and run["warmup_steps"] == 30
    for path in ("recipes/smollm2-135m/gsm8k.yaml", "configs/smol/smol_135m_gsm8k.yaml"):
        assert shown(path)["total_steps"] == 2_805
    for path in ("recipes/smollm2-135m/metamathqa_10k.yaml", "configs/smol/smol_135m_metamath.yaml"):
        assert shown(path)["total_steps"] == 5_000


def test_rank_32_on_every_linear_layer_of_an_8b_llama() -> None:
    shape = KNOWN["meta-llama/Llama-3.1-8B"]
    # layers x rank x the inputs and outputs of q, k, v, o, gate, up and down, written out
    by_hand = 32 * 32 * (8192 + 5120 + 5120 + 8192 + 3 * 18_432)
    assert num_lora_parameters(shape, 32, "all-linear") == by_hand == 83_886_080


def test_nemo() -> None:
    dolly, squad = shown("recipes/llama3-8b/sft_dolly.yaml"), shown("recipes/llama3-8b/lora_squad.yaml")
    assert (dolly["num_rows"], dolly["total_steps"], dolly["global_batch"]) == (12_008, 20, 8)
    assert (squad["num_rows"], squad["total_steps"], squad["global_batch"]) == (83_219, 20, 8)
    assert squad["weights"]["num_trainable"] == 83_886_080
    assert shown("recipes/llama3-8b/sft_dolly.yaml", "train.max_steps=null")["total_steps"] == 1_501
    assert shown("recipes/llama3-8b/lora_squad.yaml", "train.max_steps=null")["total_steps"] == 10_403
