"""A foreign file becomes a recipe that loads, and no key of it vanishes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import RecipeError
from whet.recipe import find_problems, parse_recipe, resolve
from whet.recipe.importers import Imported, detect, import_recipe
from whet.recipe.importers.sheet import leaves_of
from whet.recipe.yaml_tree import parse_tree

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


def test_rank_stabilised_lora_becomes_the_alpha_of_the_same_scale():
    result = imported("lora_ns_metamath")
    adapter = result.recipe.adapter
    assert adapter.alpha / adapter.rank == pytest.approx(64 / math.sqrt(32), rel=1e-6)
    off = of_text((FOLDER / "lora_ns_metamath.yaml").read_text().replace("use_rslora: true", "use_rslora: false"))
    assert off.recipe.adapter.alpha == 64


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


def test_what_lora_ns_changes_in_the_model_and_whet_does_not_do_yet_is_told():
    result = imported("lora_ns_metamath")
    for key in ("peft.init_lora_weights", "trainer.name", "trainer.refactor_every", "trainer.balance_lambda"):
        assert where(result, key) == "unmapped"
    assert where(result, "sft.packing") == "no effect"
    assert where(result, "training.eval_steps") == "no effect"
    assert where(result, "training.report_to") == "unmapped"  # wandb is lost


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
    assert where(chat, "val_set_size") == "unmapped" and where(chat, "train_on_inputs") == "unmapped"


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


def test_llama_factory_defaults_and_shares():
    text = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\ndataset: c/d,e/f\n"
    recipe = of_text(text + "interleave_probs: 0.7,0.3\nmix_strategy: interleave_under\n").recipe
    assert (recipe.adapter.alpha, recipe.adapter.targets) == (8, "all-linear")
    assert [source.weight for source in recipe.data.train] == [0.7, 0.3]


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
