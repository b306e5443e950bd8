"""A foreign file becomes a recipe that loads, and no key of it vanishes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import RecipeError
from whet.recipe import find_problems, parse_recipe, resolve
from whet.recipe.importers import Imported, detect, import_recipe
from whet.recipe.importers.sheet import leaves_of
from whet.recipe.splits import num_rows_taken
from whet.recipe.yaml_tree import parse_tree

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[3] / "golden" / "foreign"
FILES = sorted(FOLDER.glob("*.yaml"))
TOOLS = {
    "lora_ns_metamath": "lora-ns",
    "trl_sft": "TRL / Hugging Face",
    "trainer": "TRL / Hugging Face",
    "axolotl_alpaca": "Axolotl",
    "axolotl_chat": "Axolotl",
    "llama_factory": "LLaMA-Factory",
}


def imported(name: str, **options: object) -> Imported:
    return import_recipe((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml", **options)


def of_text(text: str, **options: object) -> Imported:
    return import_recipe(text, "f.yaml", **options)


def where(result: Imported, key: str) -> str:
    lists = {"mapped": result.mapped, "no effect": result.no_effect, "unmapped": result.unmapped}
    found = [name for name, entries in lists.items() for entry in entries if entry.key == key]
    assert len(found) == 1, f"{key} stands in {found}"
    return found[0]


def keys_of(text: str) -> list[str]:
    return sorted(leaves_of(parse_tree(text, str)[0]))


def accounted(result: Imported) -> list[str]:
    return sorted(entry.key for entry in (*result.mapped, *result.no_effect, *result.unmapped))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_foreign_file_is_recognised_loads_resolves_and_survives_a_round_trip(path):
    text = path.read_text(encoding="utf-8")
    result = import_recipe(text, path.name)
    assert result.tool == TOOLS[path.stem]
    assert find_problems(result.recipe) == []
    assert resolve(result.recipe, world_size=1, num_samples=1000).total_steps > 0
    written = result.text(path.name)
    assert parse_recipe(written) == result.recipe
    assert detect(written) is None, "an imported recipe is whet's own"
    assert keys_of(text) == accounted(result)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_account_stands_at_the_top_of_the_written_recipe(path):
    result = import_recipe(path.read_text(encoding="utf-8"), path.name)
    comment = [line for line in result.text(path.name).splitlines() if line.startswith("#")]
    for entry in (*result.mapped, *result.no_effect, *result.unmapped):
        assert any(f"  {entry.key}: " in line for line in comment)
    for entry in result.unmapped:
        assert entry.reason


UNKNOWN = st.dictionaries(
    st.from_regex(r"zz_[a-z]{1,8}", fullmatch=True),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc x", max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("pqr", min_size=1), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


def without_some(node: object, draw: st.DrawFn) -> object:
    """A section with some of its keys, at every depth."""
    if not isinstance(node, dict):
        return node
    kept = draw(st.sets(st.sampled_from(sorted(node))))
    return {key: without_some(value, draw) for key, value in node.items() if key in kept}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_leaf_of_any_file_stands_in_exactly_one_list(path, data):
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = yaml.safe_dump(data.draw(part_of(whole)) | data.draw(UNKNOWN))
    if detect(text) is None:  # too little is left to recognise its tool
        return
    result = of_text(text)
    assert accounted(result) == keys_of(text)
    assert parse_recipe(result.recipe_yaml) == result.recipe
    assert find_problems(result.recipe) == []


@st.composite
def part_of(draw: st.DrawFn, whole: dict[str, object]) -> dict[str, object]:
    part = without_some(whole, draw)
    assert isinstance(part, dict)
    return part


# lora-ns


def test_a_lora_ns_file_keeps_its_global_batch_whatever_runs_it():
    recipe = imported("lora_ns_metamath").recipe
    assert recipe.batch.global_size == 4 * 4 * 8
    for world in (1, 2, 8, 16, 32):
        plan = resolve(recipe, world_size=world, num_samples=395_000)
        assert (plan.global_batch, plan.steps_per_epoch, plan.total_steps) == (128, 3086, 6172)
    assert imported("lora_ns_metamath", world_size=16).recipe.batch.global_size == 256
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    said = of_text(text + "accelerate: {num_processes: 2, mixed_precision: bf16}\n")
    assert said.recipe.batch.global_size == 32 and where(said, "accelerate.num_processes") == "mapped"
    assert of_text(text, world_size=1).recipe.batch.global_size == 16
    config = "distributed_type: MULTI_GPU\nnum_processes: 4\n"
    assert imported("lora_ns_metamath", accelerate=config).recipe.batch.global_size == 64


def test_an_evaluation_split_inside_the_training_split_is_cut_out_and_told():
    result = imported("lora_ns_metamath")
    assert result.recipe.data.train[0].split == "train[5000:]"
    assert result.recipe.data.validation[0].split == "train[:5000]"
    assert any("leak" in entry.reason for entry in result.mapped if entry.key == "dataset.train_split")


@pytest.mark.parametrize(
    ("train", "held_out", "left"),
    [
        ("train", "test", "train"),
        ("train[:10000]", "train[10000:12000]", "train[:10000]"),
        ("train[:10000]", "train[:500]", "train[500:10000]"),
        ("train", "train[390000:]", "train[:390000]"),
        ("train[:10000]", "train[9000:]", "train[:9000]"),
        ("train", "train[:5%]", "train[5%:]"),
    ],
)
def test_training_rows_are_what_the_evaluation_rows_leave(train, held_out, left):
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    text = text.replace("train_split: train\n", f"train_split: {train}\n").replace("train[:5000]", held_out)
    assert of_text(text).recipe.data.train[0].split == left


def test_an_evaluation_split_in_the_middle_or_all_of_training_is_refused():
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    for held_out in ("train[5:10]", "train"):
        result = of_text(text.replace("train[:5000]", held_out))
        assert where(result, "dataset.eval_split") == "unmapped"
        assert result.recipe.data.validation == () and result.recipe.data.train[0].split == "train"


def test_the_adapter_of_a_lora_ns_file_is_taken_over_one_to_one():
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    adapter = of_text(text).recipe.adapter
    assert (adapter.method, adapter.rank, adapter.alpha) == ("lora", 32, 64)
    assert (adapter.rslora, adapter.init) == (True, "pissa")
    changed = text.replace("use_rslora: true", "use_rslora: false").replace("use_dora: false", "use_dora: true")
    with pytest.raises(RecipeError, match="pissa takes its start out of the base, but dora"):
        of_text(changed)
    changed = changed.replace("init_lora_weights: pissa", "init_lora_weights: true").replace("balanced", "exact")
    assert (of_text(changed).recipe.adapter.rslora, of_text(changed).recipe.adapter.method) == (False, "dora")


@pytest.mark.parametrize(
    ("word", "start"),
    [("true", "default"), ("gaussian", "gaussian"), ("pissa_niter_4", "pissa_fast"), ("olora", "olora"),
     ("lora_ga", "lora_ga"), ("lora_ns", None), ("loftq", None), ("", "gaussian")],
)  # fmt: skip
def test_starts_of_the_factors(word, start):
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    result = of_text(text.replace("init_lora_weights: pissa", f"init_lora_weights: {word}"))
    assert result.recipe.adapter.init == (start or "default")
    assert (where(result, "peft.init_lora_weights") == "unmapped") == (start is None)


def test_the_spectral_trainer_is_a_callback_and_exact_over_a_start_inside_the_base():
    result = imported("lora_ns_metamath")
    (callback,) = result.recipe.callbacks
    assert (callback.name, callback.every, callback.warmup_steps) == ("spectral", 200, 100)
    assert (callback.mode, callback.second_moments) == ("exact", "keep")
    (mode,) = (entry for entry in result.mapped if entry.key == "trainer.refactor_mode")
    assert (mode.value, mode.whet_value) == ("balanced", "exact") and "2,799" in mode.reason
    assert where(result, "trainer.balance_lambda") == "no effect"
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    plain = of_text(text.replace("init_lora_weights: pissa", "init_lora_weights: true")).recipe.callbacks[0]
    assert (plain.mode, plain.balance) == ("balanced", 0.85)
    by_length = text.replace("init_lora_weights: pissa", "init_lora_weights: true").replace(
        "_dora: false", "_dora: true"
    )
    assert of_text(by_length).recipe.callbacks[0].mode == "exact"
    silent = of_text(text.replace("  clear_momentum: false\n", "").replace("  refactor_mode: balanced\n", ""))
    assert (silent.recipe.callbacks[0].mode, silent.recipe.callbacks[0].second_moments) == ("exact", "clear")
    ordinary = of_text(text.replace("name: SpectralRefactorTrainer", "name: Trainer"))
    assert ordinary.recipe.callbacks == () and where(ordinary, "trainer.refactor_every") == "no effect"
    later = of_text(text.replace("name: SpectralRefactorTrainer", "name: CleanedSvdRefactorTrainer"))
    assert later.recipe.callbacks == () and where(later, "trainer.name") == "unmapped"


def test_held_out_rows_that_repeat_a_training_question_are_left_out_where_the_dataset_repeats_itself():
    assert imported("lora_ns_metamath").recipe.data.shared_rows == "drop"
    assert imported("trl_sft").recipe.data.shared_rows == "error"


def test_the_prompt_is_the_text_before_the_answer():
    assert imported("lora_ns_metamath").recipe.data.prompt == "metamath"
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    head, _, tail = text.partition("  prompt_template: |")
    tail = tail[tail.index("\ntraining:") :]
    own = of_text(head + '  prompt_template: "Q: {question} A: {answer}"\n' + tail)
    assert own.recipe.data.prompt == "Q: {question} A: "
    lost = of_text(head + '  prompt_template: "no place"\n' + tail)
    assert where(lost, "dataset.prompt_template") == "unmapped" and lost.recipe.data.prompt is None


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_bnb_8bit", "qlora_adamw", "adamw_4bit"])
def test_an_optimizer_that_quantises_is_not_mapped_in_silence(optimizer):
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8").replace("adamw_torch_fused", optimizer)
    assert where(of_text(text), "training.optim") == "unmapped"


def test_keys_that_do_nothing_and_trackers_that_are_lost_are_told():
    result = imported("lora_ns_metamath")
    assert where(result, "sft.packing") == "no effect"
    assert where(result, "training.eval_steps") == "no effect"
    other = of_text(
        (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8").replace("[wandb, tensorboard]", "[comet_ml]")
    )
    assert where(other, "training.report_to") == "unmapped"


def test_the_guide_s_trackers_project_and_tags_are_kept():
    recipe = imported("lora_ns_metamath").recipe
    assert recipe.tracking == ("wandb", "tensorboard")
    told = recipe.tracked_as
    assert (told.project, told.tags, told.online) == ("Llama-3.1-8B-MetaMath", ("metamath", "8gpu"), True)


def test_lora_ns_defaults_are_those_of_lora_ns():
    text = "task_name: gsm8k\ntask_type: CAUSAL_LM\nmodel: {name_or_path: HuggingFaceTB/SmolLM2-135M}\n"
    text += (
        "peft: {method: lora}\ndataset: {name: gsm8k, subset: main, eval_split: test}\ntraining: {output_dir: out}\n"
    )
    result = of_text(text, world_size=1)
    recipe = result.recipe
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.dropout) == (8, 16, 0.1)
    assert recipe.adapter.targets == ("q_proj", "v_proj")
    assert (recipe.data.train[0].source, recipe.data.train[0].config) == ("openai/gsm8k", None)
    assert where(result, "dataset.subset") == "no effect"  # main is what whet reads
    assert (recipe.data.max_length, recipe.batch.global_size) == (2048, 8)
    assert any("adapter.targets" in note for note in result.notes)


def test_other_ways_of_training_are_refused():
    text = (FOLDER / "lora_ns_metamath.yaml").read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="SEQ_CLS"):
        of_text(text.replace("task_type: CAUSAL_LM\n\nmodel", "task_type: SEQ_CLS\n\nmodel"))
    with pytest.raises(RecipeError, match="prefix-tuning"):
        of_text(text.replace("method: lora", "method: prefix-tuning"))
    with pytest.raises(RecipeError, match="dpo"):
        of_text((FOLDER / "llama_factory.yaml").read_text().replace("stage: sft", "stage: dpo"))
    with pytest.raises(RecipeError, match="dpo"):
        of_text((FOLDER / "axolotl_alpaca.yaml").read_text() + "rl: dpo\n")


# flat files


def test_numbers_in_quotes_and_yaml_1_1_words_are_read():
    recipe = imported("trl_sft").recipe
    assert recipe.optim.lr == 2e-4 and recipe.model.dtype == "bfloat16"
    with pytest.raises(RecipeError, match=r"f\.yaml:\d+ learning_rate"):
        of_text((FOLDER / "trl_sft.yaml").read_text().replace('"2e-4"', "fast"))


def test_trl_settings_land_where_they_mean_the_same():
    result = imported("trl_sft", world_size=2)
    recipe = result.recipe
    assert (recipe.batch.global_size, recipe.batch.micro_size, recipe.batch.unit) == (32, 2, "packs")
    assert (recipe.optim.warmup, recipe.optim.schedule, recipe.train.epochs, recipe.seed) == (0.1, "cosine", 2, 7)
    assert (recipe.train.eval_every, recipe.train.save_every, recipe.tracking) == (100, 200, ())
    assert recipe.evaluate[0].batch_rows == 16
    for key in ("load_in_4bit", "neftune_noise_alpha", "push_to_hub", "some_new_option"):
        assert where(result, key) == "unmapped"


def test_the_defaults_of_the_installed_trl_are_the_ones_taken():
    trl = pytest.importorskip("trl")
    text = "model_name_or_path: a/b\noutput_dir: o\ndataset_name: c/d\nuse_peft: true\n"
    recipe = of_text(text).recipe
    sft, model = (
        {field.name: field.default for field in dataclasses.fields(config)}
        for config in (trl.SFTConfig, trl.ModelConfig)
    )
    assert (recipe.optim.lr, recipe.optim.warmup) == (sft["learning_rate"], sft["warmup_steps"])
    assert (recipe.train.epochs, recipe.optim.schedule) == (sft["num_train_epochs"], sft["lr_scheduler_type"])
    assert recipe.batch.micro_size == sft["per_device_train_batch_size"]
    assert recipe.data.max_length == sft["max_length"]
    assert (recipe.adapter.rank, recipe.adapter.alpha) == (model["lora_r"], model["lora_alpha"])
    assert recipe.adapter.dropout == model["lora_dropout"]


def test_trainer_arguments_with_steps():
    result = imported("trainer")
    recipe = result.recipe
    assert (recipe.train.max_steps, recipe.optim.warmup, recipe.optim.betas) == (200, 20, (0.9, 0.95))
    assert (recipe.adapter.rank, recipe.adapter.targets) == (16, ("q_proj", "v_proj"))
    assert where(result, "num_train_epochs") == "no effect"
    for key in ("lr_scheduler_type", "fp16", "bias"):
        assert where(result, key) == "unmapped"


def test_a_constant_schedule_has_no_warm_up_as_in_hugging_face():
    text = "model_name_or_path: a/b\noutput_dir: o\ndataset_name: c/d\nwarmup_ratio: 0.1\nlr_scheduler_type: "
    assert of_text(text + "constant\n").recipe.optim.warmup == 0
    assert of_text(text + "constant_with_warmup\n").recipe.optim.warmup == 0.1


def test_axolotl_rows():
    recipe = imported("axolotl_alpaca").recipe
    assert (recipe.data.train[0].split, recipe.data.validation[0].split) == ("train[100:]", "train[:100]")
    assert (recipe.data.template, recipe.data.prompt, recipe.batch.unit) == ("plain", "metamath", "packs")
    chat = imported("axolotl_chat")
    first, second = chat.recipe.data.train
    assert first.source == "rows/chat.jsonl"
    assert first.fields == {"messages": "conversations", "role": "from", "content": "value"}
    assert second.source == "fozziethebeat/alpaca_messages_2k_test"
    assert chat.recipe.adapter.method == "none" and chat.recipe.data.chat_template == "llama-3"
    assert [source.split for source in (first, second)] == ["train[:95%]", "train[:95%]"]
    held_out = chat.recipe.data.validation
    assert [(source.source, source.split) for source in held_out] == [
        ("rows/chat.jsonl", "train[95%:]"), ("fozziethebeat/alpaca_messages_2k_test", "train[95%:]")
    ]  # fmt: skip
    assert held_out[0].fields == first.fields
    assert where(chat, "train_on_inputs") == "unmapped"


def test_a_quantised_base_is_told():
    text = (FOLDER / "axolotl_alpaca.yaml").read_text(encoding="utf-8")
    assert where(of_text(text), "load_in_8bit") == "unmapped"
    assert where(of_text(text.replace("adapter: lora", "adapter: qlora")), "adapter") == "unmapped"


def test_axolotl_fields_of_ones_own():
    text = "base_model: a/b\nmicro_batch_size: 1\ndatasets:\n  - path: c/d\n    type:\n      field_instruction: ask\n"
    text += "      field_output: reply\n      format: 'Q: {instruction} {input} A: '\n"
    recipe = of_text(text).recipe
    assert recipe.data.train[0].fields == {"instruction": "ask", "output": "reply"}
    assert recipe.data.prompt == "Q: {question}  A: "


def test_llama_factory_names_are_looked_up_in_dataset_info(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(
        '{"identity": {"file_name": "identity.json", "columns": {"prompt": "ask", "response": "output"}},'
        ' "alpaca_en_demo": {"hf_hub_url": "llamafactory/demo", "subset": "en", "formatting": "sharegpt"}}'
    )
    result = imported("llama_factory", base_folder=tmp_path)
    first, second = result.recipe.data.train
    assert (first.source, first.format, first.fields) == ("data/identity.json", "alpaca", {"instruction": "ask"})
    assert (second.source, second.config, second.format) == ("llamafactory/demo", "en", "sharegpt")
    assert where(result, "dataset") == "mapped"
    assert where(imported("llama_factory"), "dataset") == "unmapped"
    # val_size 0.1 of max_samples 1000: 900 and 100 of a large dataset, 82 and 9 of one with 91 rows
    held_out = result.recipe.data.validation
    assert [(source.split, source.rows) for source in (first, second)] == [("train[:90%]", 900)] * 2
    assert [(source.split, source.rows) for source in held_out] == [("train[90%:]", 100)] * 2
    assert [num_rows_taken(source, 91) for source in (first, held_out[0])] == [82, 9]


def test_llama_factory_defaults_and_shares():
    text = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\ndataset: c/d,e/f\n"
    recipe = of_text(text + "interleave_probs: 0.7,0.3\nmix_strategy: interleave_under\n").recipe
    assert (recipe.adapter.alpha, recipe.adapter.targets) == (8, "all-linear")
    assert [source.weight for source in recipe.data.train] == [0.7, 0.3]


def test_shares_of_validation_rows_are_cut_in_whole_percent_and_numbers_off_one_source_only():
    text = (
        "base_model: a/b\nmicro_batch_size: 1\ndatasets:\n  - {path: databricks/databricks-dolly-15k, type: alpaca}\n"
    )
    small = of_text(text + "val_set_size: 0.002\n")
    assert small.recipe.data.validation[0].split == "train[99%:]" and small.recipe.data.shared_rows == "drop"
    assert any("instead of 0.2 %" in entry.reason for entry in small.mapped)
    two = text + "  - {path: c/d}\n"
    assert where(of_text(two + "val_set_size: 100\n"), "val_set_size") == "unmapped"
    sliced = text.replace("type: alpaca", "split: 'train[:9]'")
    assert where(of_text(sliced + "val_set_size: 0.1\n"), "val_set_size") == "unmapped"


def test_pissa_and_lora_plus_of_llama_factory():
    text = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: c/d\npissa_init: true\n"
    assert of_text(text).recipe.adapter.init == "pissa_fast"
    exact = of_text(text + "pissa_iter: -1\nloraplus_lr_ratio: 16\n").recipe.adapter
    assert (exact.init, exact.lr_ratio, exact.method) == ("pissa", 16, "lora")
    assert of_text(text.replace("pissa_init", "use_dora")).recipe.adapter.method == "dora"


# recognising


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nname: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\n",
        # whet's own recipe with another tool's keys in it is whet's: its mistakes are told one by one
        "name: a\noutput: b\ndata: {train: [{source: r.jsonl}]}\npeft: {r: 8}\ntraining: {bf16: true}\n",
        "just text",
        "- 1\n- 2\n",
        "a: [",
        "",
    ],
)
def test_whets_own_recipes_and_other_texts_are_no_foreign_files(text):
    assert detect(text) is None
    with pytest.raises(RecipeError):
        of_text(text)


def test_anchors_and_doubled_keys_are_refused_with_their_line():
    with pytest.raises(RecipeError, match=r"f\.yaml:3 .*given twice"):
        of_text("model_name_or_path: a/b\noutput_dir: o\noutput_dir: p\n")


# the best checkpoint

TRAINER = """\
model_name_or_path: m
output_dir: o
dataset_name: openai/gsm8k
eval_strategy: steps
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("eval/loss", None, "last", 0.0)),
        ("load_best_model_at_end: true\n", ("eval/loss", None, "best", 0.0)),
        (
            "load_best_model_at_end: true\nmetric_for_best_model: eval_loss\ngreater_is_better: false\n"
            "early_stopping_patience: 4\nearly_stopping_threshold: 0.01\n",
            ("eval/loss", 4, "best", 0.01),
        ),
        ("metric_for_best_model: eval_mean_token_accuracy\n", ("eval/token_accuracy", None, "last", 0.0)),
        ("load_best_model_at_end: false\nearly_stopping_patience: 0\n", ("eval/loss", None, "last", 0.0)),
    ],
)
def test_the_best_checkpoint_of_hugging_faces_trainer_is_the_best_here(text, expected):
    result = of_text(TRAINER + text)
    train = result.recipe.train
    assert (train.best_metric, train.patience, train.final, train.min_improvement) == expected
    assert not [entry.key for entry in result.unmapped]


@pytest.mark.parametrize(
    ("text", "unmapped"),
    [
        (
            "load_best_model_at_end: true\nmetric_for_best_model: bleu_of_mine\ngreater_is_better: true\n",
            ["load_best_model_at_end", "metric_for_best_model", "greater_is_better"],
        ),
        ("metric_for_best_model: loss\ngreater_is_better: true\n", ["greater_is_better"]),
        ("load_best_model_at_end: true\neval_strategy: 'no'\nearly_stopping_patience: 3\n",
         ["load_best_model_at_end", "early_stopping_patience"]),
    ],
)  # fmt: skip
def test_a_best_that_nothing_here_measures_is_told_and_not_replaced(text, unmapped):
    result = of_text((TRAINER + text).replace("eval_strategy: steps\n", "") if "'no'" in text else TRAINER + text)
    assert sorted(entry.key for entry in result.unmapped) == sorted(unmapped)
    assert result.recipe.train.final == "last" and result.recipe.train.patience is None


def test_lora_ns_chooses_by_generated_answers_and_not_by_the_rows_of_the_verdict():
    recipe = imported("lora_ns_metamath").recipe
    assert (recipe.train.best_metric, recipe.train.final) == ("eval/answer_accuracy", "best")
    main, choice = recipe.evaluate
    assert (main.role, main.every, main.source.split) == ("main", None, "test[200:]")
    assert (choice.role, choice.every, choice.source.split) == ("other", 100, "test[:200]")
    assert choice.max_new_tokens == main.max_new_tokens


def test_axolotl_s_project_switches_its_tracker_on():
    text = (FOLDER / "axolotl_alpaca.yaml").read_text(encoding="utf-8")
    assert of_text(text).recipe.tracking == ("tensorboard",)
    recipe = of_text(text.replace("wandb_project:", "wandb_project: guide\nwandb_name: first")).recipe
    assert recipe.tracking == ("tensorboard", "wandb")
    assert (recipe.tracked_as.project, recipe.tracked_as.name) == ("guide", "first")
