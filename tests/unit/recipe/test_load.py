"""A recipe is read exactly, or every problem is told at once with its file:line."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import RecipeError
from whet.recipe import Recipe, dump_recipe, find_problems, load_recipe, parse_recipe
from whet.recipe.schema import Adapter, Batch, Callback, Data, Evaluate, Model, Optim, Source, Train
from whet.visible import spelled_out

MINIMAL = """\
name: small
output: runs/small
data:
  train:
    - source: rows.jsonl
"""


def problems_of(text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    lines = str(caught.value).splitlines()
    return [line.strip() for line in (lines[1:] if lines[0].endswith("problems:") else lines)]


def test_a_minimal_recipe_takes_every_other_value_from_the_schema():
    expected = Recipe(name="small", output="runs/small", data=Data(train=(Source(source="rows.jsonl"),)))
    assert parse_recipe(MINIMAL) == expected


def test_values_are_read_by_the_type_of_their_field():
    recipe = parse_recipe(
        MINIMAL.replace("name: small", "name: no")
        + "model: {revision: 1e10}\noptim: {lr: 2e-4, betas: [.9, 1e-1]}\ntrain: {max_steps: 1e3, epochs: 2}\n"
        "adapter: {rslora: yes}\nevaluate:\n  - {name: 12, source: {source: t.jsonl}}\n"
    )
    assert recipe.name == "no"
    assert recipe.model.revision == "1e10"
    assert (recipe.optim.lr, recipe.optim.betas) == (2e-4, (0.9, 0.1))
    assert (recipe.train.max_steps, recipe.train.epochs) == (1000, 2.0)
    assert type(recipe.train.max_steps) is int and type(recipe.train.epochs) is float
    assert (recipe.evaluate[0].name, recipe.adapter.rslora) == ("12", True)


def test_an_empty_section_or_list_means_its_defaults():
    assert parse_recipe(MINIMAL + "adapter:\ntrain:\nevaluate:\n") == parse_recipe(MINIMAL)


def test_every_problem_is_told_at_once_with_its_line():
    text = (
        "name: small\n"
        "data:\n"
        "  train:\n"
        "    - spilt: train\n"
        "adapter: {rank: 0}\n"
        "optim:\n"
        "  learning_rate: 1\n"
        "  eps: '1e-8'\n"
        "model: {dtype: flaot32}\n"
        "batch: {micro_size: true}\n"
    )
    assert problems_of(text) == [
        "r.yaml:1 output: is missing: Run folder; created if missing.",
        "r.yaml:4 data.train.0.source: is missing: File (`rows.jsonl`, `.json`, `.csv`, `.parquet`), "
        "`reasoning-gym:TASK` for generated problems, or hub id.",
        "r.yaml:4 data.train.0.spilt: unknown key, did you mean data.train.0.split?",
        "r.yaml:5 adapter.rank: must be a whole number, at least 1 (found 0)",
        "r.yaml:7 optim.learning_rate: unknown key: here it is optim.lr",
        'r.yaml:8 optim.eps: must be a number, above 0 (found the text "1e-8"); '
        "numbers and true/false stand without quotes",
        "r.yaml:9 model.dtype: must be one of auto, float32, bfloat16, float64 (found flaot32), did you mean float32?",
        "r.yaml:10 batch.micro_size: must be a whole number, at least 1 or auto (found true)",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("optim: {lr: true}", "optim.lr: must be a number, above 0 (found true)"),
        ("optim: {lr: .inf}", "optim.lr: must be a number, above 0 (found .inf)"),
        ("optim: {lr: .nan}", "optim.lr: must be a number, above 0 (found .nan)"),
        ("optim: {lr: fast}", "optim.lr: must be a number, above 0 (found fast)"),
        ("optim: {betas: [0.9]}", "optim.betas: must be a list of 2 values"),
        ("optim: {betas: [0.9, 0.9, 0.9]}", "optim.betas: must be a list of 2 values"),
        ("optim: {betas: [0.9, 1.0]}", "optim.betas.1: must be a number, at least 0, below 1 (found 1.0)"),
        ("optim: lr:1e-4", "optim: must be a section of keys (found lr:1e-4); put a space after the colon"),
        ("train: {max_steps: 1.5}", "train.max_steps: must be a whole number, at least 1, or null (found 1.5)"),
        ("adapter: {targets: q_proj}", "(found q_proj); a list is written [q_proj]"),
        ("adapter: {targets: [q_proj, [a]]}", "adapter.targets.1: must be text (found a list of 1)"),
        ("evaluate: {name: x}", "put `- ` before the first key"),
        ("seed: 4294967296", "seed: must be a whole number, at least 0, below 4294967296 (found 4294967296)"),
        ("seed: " + "1" * 5000, "seed: must be a whole number, at least 0, below 4294967296 (found 1111"),
        ("version: 2", "version: must be 1 (found 2)"),
        ("tracking: [comet]", "tracking.0: must be one of tensorboard, wandb, mlflow, trackio (found comet)"),
        ("callbacks: [1]", "callbacks.0: must be a section of keys (found 1)"),
    ],
)
def test_a_wrong_value_is_described_by_what_would_be_right(lines, expected):
    (problem,) = problems_of(MINIMAL + lines + "\n")
    assert problem.startswith("r.yaml:6 ") and expected in problem


def test_a_nameless_recipe_is_told_so():
    assert problems_of(MINIMAL.replace("name: small", "name:")) == ["r.yaml:1 name: must be text (found nothing)"]


def test_an_impossible_combination_is_told_together_with_wrong_values():
    text = MINIMAL + "batch: {global_size: 10, micro_size: 4}\noptim: {lr: -1}\n"
    problems = problems_of(text)
    assert [p.split(":")[1] for p in problems] == ["7 optim.lr", "6 batch.global_size"]


def test_a_combination_with_a_value_that_is_already_wrong_is_not_told_twice():
    (problem,) = problems_of(MINIMAL + "batch: {global_size: 10, micro_size: four}\n")
    assert "batch.micro_size" in problem


def test_thousands_of_problems_are_counted_and_the_first_are_told():
    problems = problems_of(MINIMAL + "".join(f"key{i}: 1\n" for i in range(2000)))
    assert len(problems) == 101 and problems[-1] == "... and 1900 more"


def test_a_text_that_is_no_recipe_is_told_so():
    assert problems_of("") == ["r.yaml: a recipe is a list of `key: value` lines (found nothing)"]
    assert problems_of("- a\n- b\n") == ["r.yaml: a recipe is a list of `key: value` lines (found a list of 2)"]


def test_a_file_is_named_as_it_was_given(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + "bogus: 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=f"{path}:6 bogus: unknown key"):
        load_recipe(path)


def test_a_file_with_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_recipe(path) == parse_recipe(MINIMAL)


def test_what_is_no_recipe_file_is_told_with_the_nearest_name(tmp_path):
    (tmp_path / "demo.yaml").write_text(MINIMAL)
    with pytest.raises(RecipeError, match=r"did you mean .*demo\.yaml"):
        load_recipe(tmp_path / "dmeo.yaml")
    with pytest.raises(RecipeError, match="in this folder"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="no folder"):
        load_recipe(tmp_path / "nowhere" / "demo.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"not UTF-8 text \(byte 9\)"):
        load_recipe(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe(tmp_path / "big.yaml")


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda text: text.strip())
# of names, files and ids; what steers a terminal or changes the direction of text is refused there
plain = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and spelled_out(text) == text
)
names = plain.filter(lambda text: not set(text) & set("/\\"))
whole = st.integers(1, 10**12)
shares = st.floats(0, 1, exclude_max=True)
above_0 = st.floats(0, 1e300, exclude_min=True)
words = st.sampled_from(["no", "1e-4", "12:30", "null", "~", "010", "1_000", ".inf", "- a", "a: b", "#x", "true", "1"])
options = st.dictionaries(texts | words, st.booleans() | st.integers() | st.floats(-1e300, 1e300) | texts | words)


def sources(kind: str) -> st.SearchStrategy[Source]:
    generated = st.builds(
        Source,
        source=st.just(f"reasoning-gym:{kind}"),
        split=st.sampled_from(["train", "test", "train[:10]"]),
        rows=whole,
        system=st.none() | texts | words,
        options=options,
    )
    hub = st.builds(
        Source,
        source=st.just(f"hub/{kind}"),
        config=st.none() | plain,
        revision=st.none() | words,
        rows=st.none() | whole,
    )
    return generated | hub | st.builds(Source, source=st.just(f"{kind}.jsonl"), instruction=st.none() | texts)


def evaluations() -> st.SearchStrategy[tuple[Evaluate, ...]]:
    one = st.builds(Evaluate, name=names, source=sources("evaluate"), max_new_tokens=whole, batch_rows=whole)
    return st.lists(one, max_size=2, unique_by=lambda evaluate: evaluate.name).map(tuple)


targets = st.just("all-linear") | st.lists(plain, min_size=1, max_size=3, unique=True).map(tuple)
adapters = st.just(Adapter(method="none")) | st.builds(
    Adapter, method=st.just("lora"), rank=whole, alpha=above_0, dropout=shares, targets=targets
)
recipes = st.builds(
    Recipe,
    name=plain | words,
    output=plain | words,
    seed=st.integers(0, 2**32 - 1),
    model=st.builds(Model, id=plain | words, revision=st.none() | plain | words),
    adapter=adapters,
    data=st.builds(
        Data,
        train=st.lists(sources("train"), min_size=1, max_size=2).map(tuple),
        validation=st.lists(sources("validation"), max_size=1).map(tuple),
        max_length=whole,
    ),
    batch=st.builds(lambda micro, times: Batch(global_size=micro * times, micro_size=micro), whole, whole),
    optim=st.builds(Optim, lr=above_0, betas=st.tuples(shares, shares), eps=above_0, warmup=shares),
    train=st.builds(Train, epochs=above_0, keep=whole, threads=st.none() | whole),
    evaluate=evaluations(),
    callbacks=st.lists(st.builds(Callback, every=st.integers(1, 9)), max_size=2, unique_by=lambda c: c.name).map(tuple),
    tracking=st.sampled_from([(), ("tensorboard",)]),
).filter(lambda recipe: recipe.adapter.method == "lora" or not recipe.callbacks)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(recipes)
def test_loading_what_was_dumped_gives_an_equal_recipe(recipe):
    assert find_problems(recipe) == []
    loaded = parse_recipe(dump_recipe(recipe), "r.yaml")
    assert loaded == recipe
    assert repr(loaded) == repr(recipe)  # 1 == 1.0 == True: the types must come back too


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1e-4",
            "no",
            "off",
            "null",
            "~",
            "true",
            "12:30:45",
            "0x1F",
            "010",
            ".inf",
            "7",
            "- a",
            "a: b",
            "# c",
            "&a",
            "*a",
        ),
        *(
            "!t",
            "a\nb",
            "a\n\nb ",
            " a",
            "\x85",
            "\u2028",
            "\ufeff",
            "\U0001f600",
            "'",
            '"',
            "\\",
            "%",
            "@",
            "|",
            ">",
            "",
        ),
    ],
)
def test_a_text_that_looks_like_something_else_is_dumped_as_text(text):
    source = Source(source="reasoning-gym:x", rows=1, instruction=text, options={"value": text, text or "empty": 1})
    recipe = Recipe(name="a", output="b", data=Data(train=(source,)))
    assert parse_recipe(dump_recipe(recipe)) == recipe


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_a_recipe_error(text):
    with pytest.raises(RecipeError):
        parse_recipe(text, "r.yaml")


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_value_at_any_key_is_a_recipe_or_a_recipe_error(data):
    tree = dataclasses.asdict(parse_recipe(MINIMAL))
    section = data.draw(st.sampled_from([key for key in tree if isinstance(tree[key], dict)]))
    key = data.draw(st.sampled_from([*tree[section], "bogus"]))
    value = data.draw(words | st.sampled_from(["[]", "{}", "[[1]]", "{a: {b: 1}}", "''", "-1", "99999999999999999999"]))
    try:
        recipe = parse_recipe(MINIMAL, "r.yaml", [f"{section}.{key}={value}"])
    except RecipeError as error:
        assert "command line: " in str(error) or "r.yaml" in str(error)
    else:
        assert all(math.isfinite(v) for v in dataclasses.asdict(recipe)["optim"]["betas"])


def test_the_recipe_package_imports_no_torch_and_loads_in_milliseconds(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    code = (
        "import sys; from whet.recipe import load_recipe, resolve; import whet.models.families, whet.estimate.disk;"
        "resolve(load_recipe(sys.argv[1]), world_size=1, num_samples=10);"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy.testing') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    load_recipe(path)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        load_recipe(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
