import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data import sources
from whet.data.files import RawRow
from whet.data.hub import HubSplit
from whet.data.sources import BadRow, open_source
from whet.errors import DataError, RecipeError
from whet.recipe.schema import Source
from whet.recipe.splits import Stretch, parse_split


def _write(folder: Path, count=10, name="rows.jsonl"):
    rows = [{"question": f"{n}+1?", "answer": f"steps\n#### {n + 1}"} for n in range(count)]
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def _open(folder, source="rows.jsonl", seed=1, **kwargs):
    return open_source(Source(source=source, **kwargs), seed=seed, base_folder=folder)


def _read(folder, *args, **kwargs):
    return list(_open(folder, *args, **kwargs).read())


def test_a_file_is_read_row_by_row_in_the_format_that_was_found(tmp_path):
    _write(tmp_path)
    rows = _read(tmp_path)
    assert _open(tmp_path).found_format == "gsm8k"
    assert [row.origin for row in rows] == [f"rows.jsonl:{n}" for n in range(1, 11)]
    assert [row.golds for row in rows] == [(f"{n + 1}",) for n in range(10)]


def test_slices_cover_a_file_once_and_keep_the_ids(tmp_path):
    _write(tmp_path)
    whole = _read(tmp_path)
    assert _read(tmp_path, split="train[:6]") + _read(tmp_path, split="all[6:]") == whole
    assert _read(tmp_path, split="train[2:9]", rows=3) == whole[2:5]


def test_bad_rows_outside_the_slice_do_not_matter(tmp_path):
    _write(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"question": "torn\n')
    assert [isinstance(row, BadRow) for row in _read(tmp_path, split="train[:10]")] == [False] * 10
    torn = _read(tmp_path)[10]
    assert (torn.origin, torn.kind) == ("rows.jsonl:11", "bad") and "torn or invalid JSON" in torn.reason


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train[:2]", [0, 1]), ("train[2:]", [2, 3]), ("all[1:2]", [1]), ("train[:50%]", [0, 1]), ("rows[75%:]", [3])],
)
def test_slices_count_rows_or_percent(tmp_path, split, numbers):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "q{n}", "answer": "a"}}\n' for n in range(4)))
    opened = open_source(Source(source="rows.jsonl", split=split), seed=0, base_folder=tmp_path)
    assert [row.messages[0].content for row in opened.read()] == [f"q{n}" for n in numbers]


@pytest.mark.parametrize("split", ["train[", "train[5]", "train[-5:]", "train[5:5]", "train[6:5]", ""])
def test_other_splits_are_refused(tmp_path, split):
    _write(tmp_path)
    with pytest.raises(RecipeError):
        open_source(Source(source="rows.jsonl", split=split), seed=0, base_folder=tmp_path)


def test_a_slice_beyond_the_end_is_an_error(tmp_path):
    _write(tmp_path)
    with pytest.raises(DataError, match="takes no rows: there are 10"):
        _read(tmp_path, split="train[10:20]")


def test_a_file_has_one_split(tmp_path):
    _write(tmp_path, name="test.jsonl")
    assert len(_read(tmp_path, "test.jsonl", split="test[:3]")) == 3
    with pytest.raises(RecipeError, match="a file is one split, it has no 'validation'"):
        _open(tmp_path, "test.jsonl", split="validation")


def test_a_stated_format_is_not_guessed_again(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}\n')
    assert _read(tmp_path)[0].messages[0].content == "a"
    assert _read(tmp_path, format="question_answer")[0].messages[0].content == "c"


def test_a_missing_file_is_not_taken_for_a_hub_id(tmp_path):
    _write(tmp_path)
    with pytest.raises(DataError, match=r"did you mean rows.jsonl\?"):
        _open(tmp_path, "row.jsonl")


def test_generated_problems_ask_for_the_answer_format_on_both_sides(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    name = "reasoning-gym:word_sequence_reversal"
    train = _read(tmp_path, name, rows=30, options={"max_words": 4})
    held_out = _read(tmp_path, name, rows=20, split="test", options={"max_words": 4})
    for example in (*train, *held_out):
        assert example.messages[0].content.endswith("in the form: Answer: ...")
        assert example.messages[-1].content == f"Answer: {example.golds[0]}"
    assert _open(tmp_path, name, rows=1).found_format == "generated"
    assert not {e.parameters for e in train} & {e.parameters for e in held_out}


def test_generated_validation_rows_come_from_another_slice_of_train(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    train = _read(tmp_path, "reasoning-gym:chain_sum", rows=40)
    validation = _read(tmp_path, "reasoning-gym:chain_sum", split="train[40:50]")
    assert len(validation) == 10
    assert not {e.parameters for e in train} & {e.parameters for e in validation}


def test_the_seed_of_a_generated_source_can_be_fixed(tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs whet[demo]")
    fixed = [_read(tmp_path, "reasoning-gym:chain_sum", seed=seed, rows=5, options={"seed": 9}) for seed in (1, 2)]
    free = [_read(tmp_path, "reasoning-gym:chain_sum", seed=seed, rows=5) for seed in (1, 2)]
    assert fixed[0] == fixed[1]
    assert free[0] != free[1]


@pytest.mark.parametrize(
    ("split", "message"), [("validation", "no split 'validation'"), ("train", "how many problems")]
)
def test_generated_sources_need_a_side_and_a_number(tmp_path, split, message):
    with pytest.raises(RecipeError, match=message):
        _open(tmp_path, "reasoning-gym:chain_sum", split=split)


def test_a_source_can_be_read_again_and_bad_rows_come_in_their_place(tmp_path):
    _write(tmp_path, 3)
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"question": "1+1?"', '"question": null'))
    opened = _open(tmp_path, split="train[:3]")
    rows = list(opened.read())
    assert rows == list(opened.read())
    assert (opened.name, opened.found_format, opened.commit) == ("rows.jsonl [train[:3]]", "gsm8k", None)
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False]
    assert (rows[1].origin, rows[1].content) == ("rows.jsonl:2", '{"question": null, "answer": "steps\\n#### 2"}')
    assert [row.id[16:] for row in (rows[0], rows[2])] == ["-0", "-0"]


def test_a_file_changed_after_it_was_opened_is_refused(tmp_path):
    _write(tmp_path)
    opened = _open(tmp_path)
    _write(tmp_path, 11)
    with pytest.raises(DataError, match="changed after it was opened"):
        list(opened.read())
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="changed after it was opened"):
        list(opened.read())


def test_the_content_key_depends_on_what_examples_depend_on_and_on_nothing_else(tmp_path):
    _write(tmp_path)
    _write(tmp_path, name="copy.jsonl")
    key = _open(tmp_path).content_key
    assert len(key) == 64
    same = [_open(tmp_path, "copy.jsonl"), _open(tmp_path, seed=2), _open(tmp_path, weight=0.5),
            _open(tmp_path, format="gsm8k"), _open(tmp_path, "./rows.jsonl")]  # fmt: skip
    assert {opened.content_key for opened in same} == {key}
    other = [
        _open(tmp_path, split="train[:9]"), _open(tmp_path, rows=9), _open(tmp_path, format="question_answer"),
        _open(tmp_path, fields={"question": "answer", "answer": "question"}, format="question_answer"),
        _open(tmp_path, system="s"), _open(tmp_path, instruction="s"), _open(tmp_path, split="all"),
    ]  # fmt: skip
    assert len({opened.content_key for opened in other} | {key}) == 8
    _write(tmp_path, 11)
    assert _open(tmp_path).content_key != key


def test_the_content_key_of_generated_problems_depends_on_seed_and_options(tmp_path):
    def key(**kwargs):
        return _open(tmp_path, "reasoning-gym:chain_sum", **{"rows": 5, **kwargs}).content_key

    assert key() == key() == key(options={"seed": 1}) != key(seed=2)
    assert len({key(), key(seed=2), key(options={"max_terms": 3}), key(rows=6), key(instruction="")}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_is_read_in_a_small_part_of_its_size(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    texts = [f"{number} " + "x" * 2_000 for number in range(10_000)]
    if kind == "jsonl":
        path.write_text("".join(f'{{"question": "{text}", "answer": "a"}}\n' for text in texts))
    elif kind == "csv":
        path.write_text("question,answer\n" + "".join(f"{text},a\n" for text in texts))
    else:
        pa = pytest.importorskip("pyarrow", reason="needs whet[data]")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"question": texts, "answer": ["a"] * len(texts)}), path, row_group_size=500)
    del texts
    opened = _open(tmp_path, path.name, format="question_answer")
    tracemalloc.start()
    try:
        num_rows = sum(1 for _ in opened.read())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 20 MB of text; a block of 512 Parquet rows is 1 MB
    assert num_rows == 10_000 and peak_bytes < 4_000_000


@given(
    num_rows=st.integers(1, 30), start=st.integers(0, 30), length=st.integers(1, 30) | st.none(),
    rows=st.integers(1, 30) | st.none(),
)  # fmt: skip
def test_a_slice_takes_what_pythons_slice_takes(num_rows, start, length, rows):
    stop = None if length is None else start + length
    expected = list(range(num_rows))[start:stop][:rows]
    raw = (RawRow(origin=str(number)) for number in range(num_rows))
    taken = sources._take(raw, Stretch("train", start, stop, False), Source(source="f", rows=rows))
    if expected:
        assert [int(row.origin) for row in taken] == expected
    else:
        with pytest.raises(DataError, match="takes no rows"):
            list(taken)


def test_a_file_is_known_by_its_suffix_in_capitals_too(tmp_path):
    _write(tmp_path, name="ROWS.JSONL")
    assert len(list(_open(tmp_path, "ROWS.JSONL").read())) == 10


def test_a_slice_reads_no_row_behind_its_end(tmp_path):
    _write(tmp_path)
    rows = iter(range(1_000))
    taken = list(sources._take((RawRow(origin=str(n)) for n in rows), parse_split("train[2:5]"), Source(source="f")))
    assert [row.origin for row in taken] == ["2", "3", "4"] and next(rows) == 5


def test_two_csv_files_can_be_read_at_the_same_time(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("question,answer\n" + ("x" * 200_000 + ",1\n") * 3)
    first, second = (iter(_open(tmp_path, name).read()) for name in ("a.csv", "b.csv"))
    next(second), list(first)
    assert [isinstance(row, BadRow) for row in second] == [False, False]


def test_a_split_rule_cuts_a_file_and_says_so(tmp_path):
    rows = [{"instruction": f"i{n}", "response": f"r{n}", "context": ""} for n in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = {name: _open(tmp_path, split=name) for name in ("train", "validation", "test", "all")}
    origins = {name: [row.origin for row in part.read()] for name, part in parts.items()}
    assert [len(part) for part in origins.values()] == [80, 15, 5, 100]
    assert sorted(origins["train"] + origins["validation"] + origins["test"]) == sorted(origins["all"])
    assert len({part.content_key for part in parts.values()}) == 4
    assert "NeMo's cut, train 80 %" in parts["train"].note and not parts["all"].note
    assert [row.origin for row in _open(tmp_path, split="train[70:]").read()] == origins["train"][70:]
    with pytest.raises(RecipeError, match="a file is one split, it has no 'dev'"):
        _open(tmp_path, split="dev")
    with pytest.raises(RecipeError, match="it has no 'validation'"):
        _open(tmp_path, split="validation", format="alpaca", fields={"output": "response"})
    with pytest.raises(DataError, match="takes no rows: there are 5"):
        list(_open(tmp_path, split="test[5:]").read())


def test_plain_text_takes_no_instruction_or_system_message(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    one, two = _open(tmp_path).read()
    assert [(turn.role, turn.is_taught) for turn in one.messages] == [("assistant", True)]
    assert one.golds == () and one.parameters != two.parameters
    for added in ({"instruction": "Go."}, {"system": "Be brief."}):
        with pytest.raises(RecipeError, match="rows of plain text have no question"):
            _open(tmp_path, **added)


@pytest.fixture
def hub(monkeypatch):
    """Hub splits of one row per format, with what was asked for."""
    asked = []

    def open_hub_split(dataset_id, **kwargs):
        asked.append((dataset_id, *kwargs.values()))
        rows = [{"instruction": f"i{n}", "response": "r", "question": f"q{n}", "answer": "#### 1"} for n in range(20)]
        raw = [RawRow(origin=f"{dataset_id}:row {n}", value=row) for n, row in enumerate(rows, 1)]
        num_rows = None if kwargs["stream"] else len(raw)
        return HubSplit(commit="c0ffee", version="c0ffee", num_rows=num_rows, read=lambda: iter(raw))

    monkeypatch.setattr(sources, "open_hub_split", open_hub_split)
    return asked


def test_a_known_hub_dataset_brings_its_format_configuration_and_split_rule(tmp_path, hub):
    opened = _open(tmp_path, "openai/gsm8k", split="test")
    assert (opened.found_format, opened.commit) == ("gsm8k", "c0ffee")
    dolly = [_open(tmp_path, "databricks/databricks-dolly-15k", split=split, stream=True)
             for split in ("train", "validation", "test", "all")]  # fmt: skip
    assert [len(list(part.read())) for part in dolly] == [16, 3, 1, 20]
    own = _open(tmp_path, "databricks/databricks-dolly-15k", split="train", format="question_answer")
    assert len(list(own.read())) == 20
    assert hub == [
        ("openai/gsm8k", "test", "main", None, False),
        *[("databricks/databricks-dolly-15k", "train", None, None, True)] * 4,
        ("databricks/databricks-dolly-15k", "train", None, None, False),
    ]


def test_the_recipes_own_configuration_wins_and_is_part_of_the_content_key(tmp_path, hub):
    main, named, other = (_open(tmp_path, "openai/gsm8k", config=config) for config in (None, "main", "socratic"))
    assert [asked[2] for asked in hub] == ["main", "main", "socratic"]
    assert main.content_key == named.content_key != other.content_key
    assert _open(tmp_path, "openai/gsm8k", stream=True).content_key == main.content_key


@pytest.mark.parametrize("format_name", ["auto", "dolly"])
def test_a_hub_dataset_under_another_id_keeps_its_own_splits(tmp_path, hub, format_name):
    opened = _open(tmp_path, "owner/pairs", split="validation", format=format_name)
    assert (opened.found_format, opened.note, len(list(opened.read()))) == ("dolly", "", 20)
    assert hub == [("owner/pairs", "validation", None, None, False)]
