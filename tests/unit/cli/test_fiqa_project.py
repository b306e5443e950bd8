"""The FiQA project's folders: settings as JSON, a final model that is whole, and TensorBoard where it is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.cli import fiqa_project
from whet.cli.preview import preview_run
from whet.errors import StorageError
from whet.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("name", ["nemotron-nano-8b/fiqa_lora.yaml", "smollm2-135m/fiqa.yaml", "smollm2-135m/sft.yaml"])
def test_the_training_config_is_json_and_holds_the_recipe(name):
    recipe = load_recipe(RECIPES / name)
    config = fiqa_project.training_config(recipe, preview_run(recipe))
    assert json.loads(json.dumps(config)) == config
    assert config["recipe"]["model"]["id"] == config["model_name"]
    assert ("lora_r" in config) == (recipe.adapter.method == "lora")


def test_the_training_config_has_the_project_s_numbers():
    recipe = load_recipe(RECIPES / "nemotron-nano-8b" / "fiqa_lora.yaml")
    config = fiqa_project.training_config(recipe, preview_run(recipe))
    expected = {
        "lora_r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "effective_batch_size": 16,
        "num_train_epochs": 3,
        "max_seq_length": 2048,
        "total_steps": 1032,
        "warmup_steps": 104,
        "trainable_parameters": 6_815_744,
    }
    assert {key: config[key] for key in expected} == expected


def test_the_final_model_is_what_the_manifest_lists(tmp_path):
    run = tmp_path / "checkpoints"
    run.mkdir()
    for name in ("adapter_model.safetensors", "tokenizer.json", "metrics.jsonl"):
        (run / name).write_text(name)
    (run / "manifest.json").write_text(json.dumps({"sha256": {"adapter_model.safetensors": "", "tokenizer.json": ""}}))
    fiqa_project.copy_final(run, run / "final_model")
    copied = sorted(path.name for path in (run / "final_model").iterdir())
    assert copied == ["adapter_model.safetensors", "manifest.json", "tokenizer.json"]
    assert (run / "final_model" / "tokenizer.json").read_text() == "tokenizer.json"


def test_outputs_logs_leads_to_the_run_s_logs_also_a_second_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("other", "checkpoints"):
        fiqa_project._lead_to_logs(Path(run) / "logs")
    (tmp_path / "checkpoints" / "logs").mkdir(parents=True)
    (tmp_path / "checkpoints" / "logs" / "events").touch()
    assert (tmp_path / "outputs" / "logs" / "events").is_file()


def test_a_logs_folder_of_ones_own_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "logs").mkdir(parents=True)
    fiqa_project._lead_to_logs(Path("checkpoints/logs"))
    assert not (tmp_path / "outputs" / "logs").is_symlink()
    assert "exists already" in capsys.readouterr().out


def test_a_file_in_the_place_of_outputs_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").touch()
    with pytest.raises(StorageError, match="outputs"):
        fiqa_project._lead_to_logs(Path("checkpoints/logs"))
