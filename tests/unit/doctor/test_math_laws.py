"""Every law holds on honest recipes, and each planted bug is told by the law that it breaks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import write_base
from typer.testing import CliRunner

from whet.cli import verbs
from whet.cli.main import app
from whet.data import packing
from whet.doctor import math_laws, small_problem
from whet.doctor.law import Law, most_in, worst
from whet.doctor.math_check import try_laws
from whet.doctor.small_problem import Problem, parse_problem, read_first_rows, shrink
from whet.errors import DataError
from whet.kernels.attention import DocumentLayout
from whet.models import adapter_file, merge
from whet.recipe import parse_recipe
from whet.train import loop, loss, state

RECIPE = """
name: small
output: {folder}/run
model: {{id: {folder}/base, dtype: float32}}
adapter: {adapter}
data: {{train: [{{source: {folder}/rows.jsonl}}]}}
batch: {{global_size: 4}}
optim: {{lr: 0.01}}
"""
LORA = "{rank: 8, alpha: 16, dropout: 0.2}"
PISSA = "{rank: 8, alpha: 16, init: pissa, rslora: true, ranks: {q_proj: 16}}"
DORA = "{method: dora, rank: 4}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("math")
    write_base(place / "base")
    rows = [{"question": f"Is {n} less? " + "Well? " * (n % 5), "answer": f"{n + n}, no more."} for n in range(12)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def recipe_of(folder, adapter=LORA):
    return parse_recipe(RECIPE.format(folder=folder, adapter=adapter))


@pytest.fixture(scope="module")
def rows(folder):
    return read_first_rows(recipe_of(folder))


@pytest.fixture(scope="module")
def problem(folder, rows) -> Problem:
    return shrink(recipe_of(folder), *rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter", [LORA, PISSA, *(pytest.param(each, marks=pytest.mark.fault) for each in (DORA, "{method: none}"))]
)
def test_every_law_holds_on_an_honest_recipe(folder, adapter):
    tried = try_laws(recipe_of(folder, adapter), with_ranks=False)
    assert tried.is_sound, [law for law in tried.laws if not law.is_kept]
    assert len(tried.laws) == 8
    nothing = [law.name for law in tried.laws if law.difference is None]
    assert nothing == (["merged = live"] if "none" in adapter else [])


def mean_of_means(run, step, num_taught, batch, laps, backward):
    with run.dropout.micro_batch(step, batch):
        nll = run.loss_model.nll_sum(batch)
    backward(nll / max(1, batch.num_taught) / run.plan.accumulation)
    return nll.detach()


def one_document(lengths, prefix=0, offsets=None):
    return DocumentLayout((prefix + sum(lengths),))


def half_of_b(_form, values):
    return {name: value * (0.5 if ".lora_B." in name else 1.0) for name, value in values.items()}


def unshifted(sample):
    return np.where(sample.taught, sample.ids, packing.IGNORED).astype(np.int64)


BUGS = {
    "mean of means": ([(loop, "_one_pass", mean_of_means)], "one gradient"),
    "documents see each other": ([(loss, "DocumentLayout", one_document)], "edit probe"),
    "documents see each other, by transformers": ([(loss, "DocumentLayout", one_document)], "packed = separate"),
    "labels are not shifted": ([(packing, "shift_labels", unshifted)], "labels"),
    "scale lost in the merge": (
        [(merge, "merged_weight", lambda w, u, merged=merge.merged_weight: merged(w, replace(u, scale=1.0)))],
        "merged = live",
    ),
    "scale lost in the file": (
        [(adapter_file.FileForm, "to_file", half_of_b)],
        "saved = loaded",
    ),
    "moments are not restored": ([(state, "load_moments", lambda *_: None)], "resume = not stopped"),
}
LAWS = {
    "one gradient": lambda problem, rows: math_laws.one_gradient(problem)[0],
    "edit probe": lambda problem, rows: math_laws.edits_stay_inside(problem),
    "packed = separate": lambda problem, rows: math_laws.packed_is_separate(problem),
    "labels": math_laws.labels_are_answers,
    "merged = live": lambda problem, rows: math_laws.merged_is_live(problem),
    "saved = loaded": lambda problem, rows: math_laws.saved_is_loaded(problem),
    "batched = single": lambda problem, rows: math_laws.batched_is_single(problem),
    "resume = not stopped": lambda problem, rows: math_laws.resumed_is_not_stopped(problem),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_breaks_the_law_it_is_against(problem, rows, monkeypatch, bug):
    patches, name = BUGS[bug]
    assert LAWS[name](problem, rows[0]).is_kept
    for place, attribute, wrong in patches:
        monkeypatch.setattr(place, attribute, wrong)
    law = LAWS[name](problem, rows[0])
    assert not law.is_kept and law.name == name and law.where, law


@pytest.mark.slow
def test_a_prompt_that_is_taught_breaks_the_labels(problem, rows):
    taught = [replace(each, taught=np.ones_like(each.taught)) for each in rows[0].samples]
    law = math_laws.labels_are_answers(problem, replace(rows[0], samples=tuple(taught)))
    assert not law.is_kept and law.difference == len(taught)


def test_a_difference_that_is_no_number_breaks_a_law():
    law = Law(name="x", compared="", difference=worst([0.0, float("nan"), 1.0]), bound=1.0)
    assert not law.is_kept
    assert most_in({"good": 0.5, "bad": float("nan")}) == "bad"


def test_the_problem_travels_as_text(problem):
    again = parse_problem(problem.dumped())
    assert again.recipe == problem.recipe and again.config == problem.config
    assert [s.ids.tolist() for s in again.samples] == [s.ids.tolist() for s in problem.samples]
    assert [s.taught.tolist() for s in again.samples] == [s.taught.tolist() for s in problem.samples]


def test_the_small_model_keeps_what_is_no_size():
    config = {
        "model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "attention_bias": True, "eos_token_id": 7,
        "auto_map": {"AutoModel": "evil.py"}, "hidden_size": 4096, "vocab_size": 128256,
    }  # fmt: skip
    small = small_problem.small_config(config, num_tokens=90)
    assert (small["num_attention_heads"], small["num_key_value_heads"], small["vocab_size"]) == (4, 1, 90)
    assert small["rope_scaling"] == config["rope_scaling"] and small["attention_bias"]
    assert "auto_map" not in small and "eos_token_id" not in small


def test_rows_that_are_all_too_long_are_told(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Why? " * 900, "answer": "So."}) + "\n")
    recipe = recipe_of(folder)
    source = replace(recipe.data.train[0], source=str(tmp_path / "rows.jsonl"))
    recipe = replace(recipe, data=replace(recipe.data, train=(source,)))
    with pytest.raises(DataError, match="only 0 of the first 32 rows have at most 512 tokens"):
        read_first_rows(recipe)


@pytest.mark.fault
def test_the_command_tries_all_laws_with_two_processes_and_tells_a_broken_one(folder, monkeypatch):
    if not app.registered_commands:
        verbs.register(app)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder, adapter=LORA), encoding="utf-8")
    said = CliRunner().invoke(app, ["doctor", "--math", str(recipe), "--json"])
    assert said.exit_code == 0, said.output
    laws = {law["name"]: law for law in json.loads(said.stdout)["laws"]}
    assert len(laws) == 9 and all(law["is_kept"] for law in laws.values())
    assert laws["ranks"]["difference"] <= 1e-6
    monkeypatch.setattr(merge, "merged_weight", BUGS["scale lost in the merge"][0][0][2])
    said = CliRunner().invoke(app, ["doctor", "--math", str(recipe)])
    assert said.exit_code == 1
    assert "FAULT merged = live" in said.output and "9 laws, 1 broken" in said.output
