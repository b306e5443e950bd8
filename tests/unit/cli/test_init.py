"""`whet init` writes a recipe that loads and rows that are disjoint, or says what it saw and what to type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from whet.cli import init as init_module
from whet.cli.init_model import check_model
from whet.cli.init_rows import MOST_COPIED_BYTES, find_material, slug
from whet.cli.this_machine import Machine
from whet.errors import DataError, RecipeError, WhetError
from whet.recipe import load_recipe

LAPTOP = Machine(num_cores=2, free_bytes=6_000_000_000, gpu_name=None, gpu_free_bytes=None)
app = typer.Typer()
app.command()(init_module.init)


@pytest.fixture
def faq(tmp_path, monkeypatch) -> Path:
    """200 questions and answers in a CSV, a few of them twice, in the folder where the command is typed."""
    monkeypatch.chdir(tmp_path)
    lines = [f"Where is shelf {n % 190}?,\"Shelf {n % 190} is in aisle {n % 190 // 7}, on the left side of it.\""
             for n in range(200)]  # fmt: skip
    path = tmp_path / "faq.csv"
    path.write_text("\n".join(["question,answer", *lines]) + "\n")
    return path


def call(*arguments: object, typed: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(f"faq-data/{name}.jsonl").read_text().splitlines()]


def test_a_csv_becomes_a_recipe_with_disjoint_sets_and_the_commands_to_type(faq):
    said = call("--data", "faq.csv", "--yes")
    recipe = load_recipe("faq.yaml")
    assert recipe.data.train[0].source == "faq-data/train.jsonl" and recipe.output == "runs/faq"
    parts = [rows(name) for name in ("train", "validation", "held_out")]
    assert [len(part) for part in parts] == [130, 20, 50]
    asked = [{row["question"] for row in part} for part in parts]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]
    for command in ("inspect faq.yaml", "train faq.yaml", "compare runs/faq", "chat runs/faq"):
        assert f"  whet {command}" in said


def test_flags_say_what_is_written(faq):
    flags = {"minutes": 4, "output": "there/run 1", "answers": "short", "recipe": "sub/a.yaml"}
    typed = [part for name, value in flags.items() for part in (f"--{name}", value)]
    call("--data", "faq.csv", "--model", "meta-llama/Llama-3.2-1B", "-y", *typed)
    recipe = load_recipe("sub/a.yaml")
    assert (recipe.train.fit_seconds, recipe.output, recipe.model.id) == (144, "there/run 1", "meta-llama/Llama-3.2-1B")
    assert recipe.evaluate[0].metrics[0] == "answer_accuracy" and recipe.data.template == "plain"
    assert recipe.data.train[0].source == "sub/a-data/train.jsonl" and Path(recipe.data.train[0].source).is_file()


def test_a_dry_run_prints_the_recipe_and_writes_nothing(faq, tmp_path):
    assert "whet train faq.yaml" in call("--data", "faq.csv", "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["faq.csv"]


def test_nothing_is_written_over_unless_forced(faq):
    call("--data", "faq.csv", "-y")
    before = Path("faq.yaml").read_text()
    with pytest.raises(RecipeError, match="is there already"):
        call("--data", "faq.csv", "-y", "--minutes", "2")
    assert Path("faq.yaml").read_text() == before
    call("--data", "faq.csv", "-y", "--recipe", "faq2.yaml")
    assert load_recipe("faq2.yaml").output == "runs/faq2" and Path("faq2-data/train.jsonl").is_file()
    call("--data", "faq.csv", "-y", "--minutes", "2", "--force")
    assert load_recipe("faq.yaml").train.fit_seconds == 72


def test_the_same_file_and_seed_give_the_same_rows(faq):
    call("--data", "faq.csv", "-y")
    first = rows("held_out")
    call("--data", "faq.csv", "-y", "--force")
    assert rows("held_out") == first
    call("--data", "faq.csv", "-y", "--force", "--seed", "1")
    assert rows("held_out") != first and load_recipe("faq.yaml").seed == 1


def test_four_questions_are_asked_and_a_wrong_answer_is_asked_again(faq, monkeypatch):
    monkeypatch.setattr(init_module, "is_terminal", lambda: True)
    said = call(typed="fqa.csv\n'faq.csv'\nsmolm2\n\nnovel\n\nsoon\n6\n")
    assert "did you mean faq.csv" in said and "there is no model 'smolm2'" in said
    assert "there is no kind of answers 'novel'" in said and "'soon' is no number of minutes" in said
    assert [said.count(f"\n{n}. ") + said.startswith(f"{n}. ") for n in (1, 2, 3, 4)] == [2, 2, 2, 2]
    assert load_recipe("faq.yaml").train.fit_seconds == 216


def test_without_a_terminal_the_data_must_be_named(faq):
    with pytest.raises(RecipeError, match=r"whet init --data rows\.csv --yes"):
        call()


def material(data: str, **options):
    settled = {"recipe": None, "seed": 42, "question": None, "answer": None, "skips_bad_rows": False}
    return find_material(data, **(settled | options))


def test_unusable_rows_are_told_with_their_lines_and_left_out_when_told(faq):
    faq.write_text(faq.read_text() + "And this?,\n")
    with pytest.raises(DataError, match=r"faq\.csv:202: empty text") as caught:
        material("faq.csv")
    assert "--skip-bad-rows" in str(caught.value)
    assert "1 unusable ones left out" in material("faq.csv", skips_bad_rows=True).sets.story


def test_a_name_that_is_neither_file_nor_dataset_lists_what_is_known(faq):
    with pytest.raises(DataError, match="gsm8k, metamathqa, fiqa, dolly, squad"):
        material("trivia")
    assert material("gsm8k").kind == "number" and material("reasoning-gym:chain_sum").name == "chain_sum"


def test_a_large_file_is_not_copied_but_cut_and_shared_questions_are_left_out(faq, monkeypatch):
    monkeypatch.setattr("whet.cli.init_rows.MOST_COPIED_BYTES", 100)
    found = material("faq.csv")
    assert MOST_COPIED_BYTES > 10**8 and not found.files and found.sets.may_share_rows
    assert (found.sets.train["split"], found.sets.held_out["split"]) == ("all[500:]", "all[:400]")
    call("--data", "faq.csv", "-y")
    assert load_recipe("faq.yaml").data.shared_rows == "drop"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("smollm2-135m", "did you mean smollm2-135m-instruct"),
        ("./nowhere", "there is no model"),
        ("meta-llama/Llama-3.1-70B-Instruct", "take a smaller model"),
    ],
)
def test_a_model_that_cannot_be_used_here_is_refused_with_another(model, expected):
    with pytest.raises(WhetError, match=expected):
        check_model(model, LAPTOP)


def test_a_model_folder_without_configuration_is_refused_and_its_template_is_looked_for(tmp_path):
    with pytest.raises(RecipeError, match=r"no config\.json"):
        check_model(str(tmp_path), LAPTOP)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 500, **sizes}))
    assert not check_model(str(tmp_path), LAPTOP).has_chat_template
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert check_model(str(tmp_path), LAPTOP).has_chat_template


def test_a_gpu_counts_its_own_memory():
    gpu = Machine(num_cores=8, free_bytes=4_000_000_000, gpu_name="H200", gpu_free_bytes=140_000_000_000)
    assert check_model("meta-llama/Llama-3.1-8B-Instruct", gpu).num_parameters > 8e9
    assert gpu.sentence() == "H200 with 140.0 GB free, 8 cores"
    with pytest.raises(RecipeError, match="smaller model"):
        check_model("meta-llama/Llama-3.1-8B-Instruct", LAPTOP)


def test_names_of_files_become_names_of_runs():
    assert [slug(text) for text in ("My FAQ (v2)", "../..", "a.b_c-d", "")] == ["My-FAQ-v2", "rows", "a.b_c-d", "rows"]
