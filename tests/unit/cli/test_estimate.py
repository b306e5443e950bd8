"""`whet estimate`: needs neither torch nor rows, tells what it assumes, and gives programs the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from whet.cli.estimate_inputs import given_bytes, look, target_of
from whet.cli.estimate_json import estimate_json
from whet.cli.estimate_text import estimate_lines
from whet.errors import RecipeError
from whet.estimate.time import Calibration, SavePace
from whet.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
GSM8K = RECIPES / "llama3.1-8b" / "gsm8k_lora.yaml"
SFT = RECIPES / "llama3-8b" / "sft_dolly.yaml"

WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "tokenizers", "peft", "datasets"):
    sys.modules[name] = None
from whet.cli.main import main
sys.argv = ["whet", "estimate", *sys.argv[1:]]
main()
"""


def seen_of(path, *, gpu="h100", count=1, num_rows=7473, mean_length=220, overrides=()):
    recipe = load_recipe(path, overrides)
    return look(
        recipe, target_of(recipe, gpu, count), num_rows=num_rows, mean_length=mean_length, longest=None, reads=False,
        say=lambda _: None,
    )  # fmt: skip


def test_neither_torch_nor_rows_nor_weights_are_needed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(GSM8K), "--gpu", "h200", "--count", "8", "--rows", "7473",
         "--mean-length", "220", "--price", "3", "--fit", "24GB", "--json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    parts = [part["bytes"] for part in found["memory"]["parts"].values()]
    assert sum(parts) == found["memory"]["bytes_per_rank"] == found["memory"]["bytes_of_all_ranks"] / 8
    assert (found["num_base"], found["num_trainable"]) == (8_030_261_248, 83_886_080)
    least, most = found["time"]["seconds"]
    assert found["time"]["cost"] == [pytest.approx(8 * each / 3600 * 3) for each in (least, most)]
    assert found["time"]["num_steps"] == 585 and found["time"]["num_tokens"] == 7473 * 220 * 5
    assert found["fit"]["fits"] and found["fit"]["bytes_per_rank"] <= 24e9
    assert not found["time"]["is_measured"] and found["measured"] is None


def test_the_text_says_what_was_not_measured_and_what_was_assumed():
    text = "\n".join(estimate_lines(seen_of(GSM8K, count=8), price=2.5, measured=None, proposal=None))
    for words in ("NOT measured on a GPU", "8,030,261,248 frozen weights x 2 bytes", "all ranks", "device-hours at 2.5",
                  "220 tokens a row on average (given)", "60% of the tokens are taught (assumed)", "fits"):  # fmt: skip
        assert words in text, words


def test_text_and_json_name_every_part_of_memory():
    seen = seen_of(SFT, count=2, num_rows=12_008)
    text = "\n".join(estimate_lines(seen, price=None, measured=None, proposal=None))
    document = estimate_json(seen, price=None, measured=None, proposal=None)
    for name, part in document["memory"]["parts"].items():
        assert part["formula"]
        assert part["bytes"] == 0 or (f"  {name:<11}" in text and part["formula"] in text)
    assert document["time"]["cost"] is None and document["step"]["num_shards"] == 2


def test_disk_is_that_of_checkpoints_kept_and_final_files():
    document = estimate_json(
        seen_of(SFT, count=8, num_rows=12_008, overrides=("train.keep=2",)), price=None, measured=None, proposal=None
    )  # fmt: skip
    disk = document["disk"]
    assert disk["checkpoint_bytes"] == 12 * 8_030_261_248 and disk["final_bytes"] == 4 * 8_030_261_248
    assert disk["run_bytes"] == pytest.approx(1.1 * (3 * disk["checkpoint_bytes"] + disk["final_bytes"]))


def test_changes_of_the_result_are_told_apart_from_changes_of_the_speed():
    seen = seen_of(SFT, num_rows=12_008)
    text = "\n".join(estimate_lines(seen, price=None, measured=None, proposal=seen.propose(60e9)))
    assert "train.recompute=full" in text and "only the speed: part of each layer" in text
    assert "CHANGES THE RESULT: Adam's moments are rounded to 8 bits" in text


@pytest.mark.parametrize(("text", "num_bytes"), [("24GB", 24e9), ("80", 80e9), ("1.5 TB", 1.5e12), ("16GiB", 2**34)])
def test_sizes_are_read_with_their_unit(text, num_bytes):
    assert given_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "0GB", "many", "24 parsecs", "-3GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RecipeError, match="no size of a memory"):
        given_bytes(text)


def test_a_model_whose_shape_is_not_known_is_refused_with_the_way_out(tmp_path):
    text = "name: a\noutput: b\nmodel: {id: someone/else}\ndata: {train: [{source: r.jsonl}]}\n"
    recipe = parse_recipe(text, "r.yaml", ())
    with pytest.raises(RecipeError, match="--read"):
        look(recipe, target_of(recipe, "h100", 1), num_rows=10, mean_length=100, longest=None, reads=False, say=print)


def test_a_shape_is_read_from_a_config_of_a_folder(tmp_path):
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "vocab_size": 500,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = f"name: a\noutput: b\nmodel: {{id: {tmp_path}}}\ndata: {{train: [{{source: r.jsonl}}]}}\n"
    recipe = parse_recipe(text, "r.yaml", ())
    seen = look(recipe, target_of(recipe, "l4", 1), num_rows=10, mean_length=100, longest=None, reads=False, say=print)
    assert seen.foreseen.shape.hidden == 64


def test_options_that_contradict_each_other_are_refused(call):
    for options in (("--measure", "--gpu", "h100"), ("--measure", "--count", "2"), ("--measure", "--rows", "5"),
                    ("--gpu", "h300"), ("--gpu", "h100", "--fit", "tiny")):  # fmt: skip
        code, _, error = call("estimate", str(GSM8K), "--mean-length", "220", *options)
        assert code == 2 and "mend:" in error, options


def test_rows_of_unknown_number_are_asked_for(tmp_path):
    text = "name: a\noutput: b\nmodel: {id: meta-llama/Llama-3.1-8B}\ndata: {train: [{source: x/y}]}\n"
    recipe = parse_recipe(text, "r.yaml", ())
    with pytest.raises(RecipeError, match="--rows N"):
        look(recipe, target_of(recipe, "h100", 1), num_rows=None, mean_length=None, longest=None, reads=False,
             say=print)  # fmt: skip


def test_what_was_measured_here_stands_in_place_of_the_data_sheet():
    measured = SimpleNamespace(
        calibration=Calibration(operations_per_second=5e10, pass_seconds=1.5, update_seconds=0.25, num_steps=3),
        peak_bytes=10**9,
        plan=SimpleNamespace(predicted_memory_bytes=2 * 10**9),
        saves=SavePace(copy_seconds=1e-9, write_seconds=4e-9),
    )  # fmt: skip
    seen = seen_of(GSM8K)
    text = "\n".join(estimate_lines(seen, price=None, measured=measured, proposal=None))
    found = estimate_json(seen, price=None, measured=measured, proposal=None)["checkpoints"]
    num_bytes = seen.foreseen.disk.checkpoint_bytes
    step = measured.calibration.step_seconds(seen.foreseen.work)
    assert step > 4e-9 * num_bytes, "a step hides the writing"
    assert found["seconds_each"] == pytest.approx([1e-9 * num_bytes, 5e-9 * num_bytes])
    assert found["seconds"] == pytest.approx([found["num"] * each for each in found["seconds_each"]])
    assert f"{found['num']} of {num_bytes / 1e9:.2f} GB, each written in {4e-9 * num_bytes:.3g} s beside a step" in text
    unknown = estimate_json(seen_of(GSM8K), price=None, measured=None, proposal=None)["checkpoints"]
    assert unknown == found | {"write_seconds": None, "seconds_each": None, "seconds": None}
    assert "from 3 steps measured here" in text and "NOT measured" not in text
    assert "1.5 s for the passes of a step, 50 GFLOP/s, and 0.25 s for its update; 1.00 GB held at the peak" in text
