import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.data.pipeline import prepare
from whet.errors import DataError
from whet.recipe.schema import Data, Evaluate, Recipe, Source


def _write(path, questions):
    path.write_text("\n".join(json.dumps({"question": q, "answer": f"{q}!"}) for q in questions))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    _write(tmp_path / "train.jsonl", [f"train {n}" for n in range(8)])
    _write(tmp_path / "more.jsonl", ["train 3", "more 1", "more 2 " + "long " * 200])
    _write(tmp_path / "test.jsonl", [f"test {n}" for n in range(4)])
    return tmp_path


def _recipe(**kwargs):
    data = {
        "train": (Source(source="train.jsonl"), Source(source="more.jsonl")),
        "max_length": 150,
        "max_dropped": "10%",
    }
    data |= kwargs.pop("data", {})
    evaluate = (Evaluate(name="held_out", source=Source(source="test.jsonl")),)
    return Recipe(name="r", output="out", data=Data(**data), **{"evaluate": evaluate, **kwargs})


def _prepare(recipe, tokenizer, folder, **others):
    return prepare(recipe, tokenizer, end_ids=[2], base_folder=folder, **others)


def test_a_recipe_becomes_tokens_and_held_out_rows(folder, chatml):
    prepared = _prepare(_recipe(), chatml, folder)
    ledger = prepared.train.ledger
    # row 1 of more.jsonl repeats a row of train.jsonl and is used all the same, row 3 is too long
    assert (ledger.num_rows, ledger.num_kept, len(prepared.train.samples)) == (11, 9, 10)
    assert [(row.origin, row.status) for row in ledger.rows] == [
        ("more.jsonl:3", "too long"), ("more.jsonl:1", "duplicate")
    ]  # fmt: skip
    assert prepared.train.source_sizes == (8, 2) and prepared.validation is None
    assert [example.golds for example in prepared.evaluate["held_out"]] == [(f"test {n}!",) for n in range(4)]
    assert prepared.notes[0] == "train.jsonl [train]: 8 rows, read as question_answer; tokenized now"
    assert "11 rows = 9 kept + 1 duplicate (used all the same), first more.jsonl:1" in prepared.notes[2]
    assert "1 too long, first more.jsonl:3: " in prepared.notes[2]
    assert prepared.notes[3] == "held_out: 4 rows = 4 kept"


def test_the_second_time_tokens_come_from_the_cache_and_are_the_same(folder, chatml):
    said = []
    one = _prepare(_recipe(), chatml, folder, say=said.append)
    assert said == ["train.jsonl [train]: reading and tokenizing", "more.jsonl [train]: reading and tokenizing"]
    two = _prepare(_recipe(), chatml, folder, say=lambda _: pytest.fail("tokenized again"))
    assert two.notes[0].endswith("; tokens from the cache")
    assert one.train.fingerprint == two.train.fingerprint and one.train.ledger == two.train.ledger
    assert [s.id for s in one.train.samples] == [s.id for s in two.train.samples]


@pytest.mark.parametrize("change", ["rows", "template", "max_length", "tokenizer", "instruction"])
def test_whatever_the_tokens_depend_on_makes_them_anew(folder, chatml, llama3, change):
    first = _prepare(_recipe(), chatml, folder)
    recipe, tokenizer = _recipe(), chatml
    if change == "rows":
        _write(folder / "train.jsonl", [f"other {n}" for n in range(8)])
    elif change == "tokenizer":
        tokenizer = copy.deepcopy(chatml)
        tokenizer.chat_template = chatml.chat_template.replace("helpful", "terse")
    elif change == "instruction":
        recipe = _recipe(data={"train": (Source(source="train.jsonl", instruction="Be brief."),)})
    else:
        recipe = _recipe(data={"template": "plain"} if change == "template" else {"max_length": 149})
    second = _prepare(recipe, tokenizer, folder)
    assert second.notes[0].endswith("; tokenized now")
    assert second.train.fingerprint != first.train.fingerprint or change == "max_length"


def test_where_rows_lie_and_when_they_were_written_does_not_matter(folder, chatml):
    _prepare(_recipe(), chatml, folder)
    (folder / "elsewhere").mkdir()
    for name in ("train", "more", "test"):
        (folder / "elsewhere" / f"{name}.jsonl").write_bytes((folder / f"{name}.jsonl").read_bytes())
    again = _prepare(_recipe(), chatml, folder / "elsewhere")
    assert again.notes[0].endswith("; tokens from the cache")


def test_repeated_rows_are_dropped_when_asked(folder, chatml):
    prepared = _prepare(_recipe(data={"duplicates": "drop"}), chatml, folder)
    assert len(prepared.train.samples) == 9 == prepared.train.ledger.num_samples
    assert prepared.train.source_sizes == (8, 1)


def test_repeats_within_a_source_are_used_counted_and_have_ids_of_their_own(folder, chatml):
    _write(folder / "train.jsonl", ["a", "b"] * 3)
    train = _prepare(_recipe(data={"train": (Source(source="train.jsonl"),)}), chatml, folder).train
    assert (train.ledger.num_rows, train.ledger.num_kept, train.ledger.count("duplicate")) == (6, 2, 4)
    assert len({sample.id for sample in train.samples}) == 6


def test_the_fingerprint_of_a_set_changes_with_content_and_order_only(folder, chatml):
    def fingerprint():
        return _prepare(_recipe(), chatml, folder).train.fingerprint

    path, before = folder / "train.jsonl", fingerprint()
    path.write_text(path.read_text().replace('"question": ', '  "question":   '))
    assert fingerprint() == before
    path.write_text("\n".join(path.read_text().splitlines()[::-1]))
    assert fingerprint() != before


def test_ids_are_unique_over_all_sources(folder, chatml):
    ids = [sample.id for sample in _prepare(_recipe(), chatml, folder).train.samples]
    assert len(set(ids)) == len(ids) == 10


def test_validation_rows_are_tokenized_and_must_be_disjoint_too(folder, chatml):
    held = _recipe(data={"train": (Source(source="train.jsonl", split="train[:6]"),),
                         "validation": (Source(source="train.jsonl", split="train[6:]"),)})  # fmt: skip
    prepared = _prepare(held, chatml, folder)
    assert (len(prepared.train.samples), len(prepared.validation.samples)) == (6, 2)
    shared = _recipe(data={"validation": (Source(source="train.jsonl", split="train[6:]"),)})
    with pytest.raises(DataError, match="validation: 2 of 2 rows are also training rows") as error:
        _prepare(shared, chatml, folder)
    assert "train.jsonl:7 = train.jsonl:7 (same question)" in str(error.value)


@pytest.mark.parametrize("twin", ["train 3", " train\n  3 ", "TRAIN 3", "train \uff13"])
def test_held_out_questions_are_known_again_whatever_their_spacing_case_and_unicode_form(folder, chatml, twin):
    _write(folder / "test.jsonl", ["new", twin])
    with pytest.raises(DataError, match=r"test.jsonl:2 = train.jsonl:4 \(same question\)"):
        _prepare(_recipe(), chatml, folder)


def test_evaluating_on_training_rows_is_refused_whatever_the_instruction(folder, chatml):
    source = Source(source="train.jsonl", split="train[:3]", instruction="Answer in one word.")
    with pytest.raises(DataError, match="held_out: 3 of 3 rows are also training rows") as error:
        _prepare(_recipe(evaluate=(Evaluate(name="held_out", source=source),)), chatml, folder)
    assert "(same parameters)" in str(error.value)


def test_shared_held_out_rows_are_left_out_when_asked_counted_and_named(folder, chatml):
    _write(folder / "test.jsonl", ["test 0", "Train  3", "test 1"])
    recipe = _recipe(data={"shared_rows": "drop", "validation": (Source(source="test.jsonl"),), "max_dropped": "1"})
    prepared = _prepare(recipe, chatml, folder)
    assert len(prepared.train.samples) == 10
    for ledger in prepared.ledgers[1:]:
        assert (ledger.num_rows, ledger.num_kept, ledger.count("shared")) == (3, 2, 1)
        assert ledger.rows[0].origin == "test.jsonl:2" and ledger.rows[0].reason == "also train.jsonl:4 (same question)"
    assert [s.num_tokens for s in prepared.validation.samples] == prepared.validation.lengths.tolist()
    assert len(prepared.validation.samples) == 2 == len(prepared.evaluate["held_out"])
    _write(folder / "test.jsonl", ["train 3", "train 4"])
    with pytest.raises(DataError, match="validation: none of 2 rows is left"):
        _prepare(recipe, chatml, folder)


@pytest.mark.parametrize(
    ("max_dropped", "over_length", "message"),
    [
        ("9%", "drop", r"1 of 11 rows \(9.1%\) would be dropped, data.max_dropped is 9%"),
        ("0", "drop", "would be dropped, data.max_dropped is 0"),
        ("100%", "error", "1 of 11 rows are too long"),
        ("9.1%", "drop", None),
        ("1", "drop", None),
        ("0", "truncate_prompt", "would be dropped"),  # its answer is too long too, and is never cut
    ],
)  # fmt: skip
def test_too_many_lost_rows_stop_before_training(folder, chatml, max_dropped, over_length, message):
    recipe = _recipe(data={"max_dropped": max_dropped, "over_length": over_length})
    if message is None:
        assert _prepare(recipe, chatml, folder).train.ledger.num_rows == 11
        return
    with pytest.raises(DataError, match=message) as error:
        _prepare(recipe, chatml, folder)
    assert ("over_length=truncate_prompt" in error.value.mend) == (over_length != "truncate_prompt")
    assert "more.jsonl:3: " in str(error.value) and error.value.exit_code == 3


def test_no_row_left_stops_whatever_the_limit(folder, chatml):
    with pytest.raises(DataError, match="none of 11 rows is left"):
        _prepare(_recipe(data={"max_length": 1, "max_dropped": "100%"}), chatml, folder)


def _spoil(folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write('\n{"question": null, "answer": "x"}\n{"question": "torn"')


def test_bad_rows_stop_before_training_and_all_are_listed(folder, chatml):
    _spoil(folder)
    for _ in range(2):  # nothing of a refused source is kept
        with pytest.raises(DataError, match=r"(?s)2 of 10 rows cannot be used.*train.jsonl:9: .*train.jsonl:10: "):
            _prepare(_recipe(), chatml, folder)


def test_bad_rows_are_left_out_when_asked_counted_and_kept_in_quarantine(folder, chatml):
    _spoil(folder)
    dropping = _recipe(data={"bad_rows": "drop", "max_dropped": "50%"})
    prepared = _prepare(dropping, chatml, folder)
    assert prepared.train.ledger.count("bad") == 2 and prepared.train.ledger.num_rows == 13
    assert [row["origin"] for row in prepared.quarantine] == ["train.jsonl:9", "train.jsonl:10"]
    assert '"question": null' in prepared.quarantine[0]["row"]
    with pytest.raises(DataError, match="2 of 10 rows cannot be used"):  # the cache has them, the strict recipe not
        _prepare(_recipe(), chatml, folder)
    with pytest.raises(DataError, match="would be dropped"):
        _prepare(_recipe(data={"bad_rows": "drop"}), chatml, folder)


def test_bad_evaluation_rows_count_too(folder, chatml):
    with (folder / "test.jsonl").open("a") as file:
        file.write('\n{"question": "", "answer": "x"}')
    with pytest.raises(DataError, match=r"(?s)1 of 5 rows cannot be used.*test.jsonl:5"):
        _prepare(_recipe(), chatml, folder)
    prepared = _prepare(_recipe(data={"bad_rows": "drop", "max_dropped": "20%"}), chatml, folder)
    assert prepared.ledgers[-1].count("bad") == 1 and len(prepared.evaluate["held_out"]) == 4


WORDS = st.text(alphabet="ab \n", max_size=6)
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"question": WORDS, "answer": WORDS}),
        st.fixed_dictionaries({"question": WORDS, "answer": st.just("long " * 60)}),
        st.fixed_dictionaries({"question": st.just("long " * 60), "answer": st.just("ab")}),
        st.just({"question": "a"}),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS, over_length=st.sampled_from(["drop", "truncate_prompt"]), duplicates=st.sampled_from(["keep", "drop"])
)
def test_the_ledger_adds_up_to_the_input_and_ids_are_unique(tmp_path, chatml, rows, over_length, duplicates):
    rows = [{"question": "fine", "answer": "yes"}, *rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(train=(Source(source="rows.jsonl", format="question_answer"),), max_length=120, max_dropped="100%",
                bad_rows="drop", over_length=over_length, duplicates=duplicates)  # fmt: skip
    train = _prepare(Recipe(name="r", output="out", data=data), chatml, tmp_path).train
    ledger = train.ledger
    assert ledger.num_rows == len(rows) == ledger.num_kept + len(ledger.rows)
    statuses = ("bad", "left out", "too long", "shared", "duplicate", "truncated")
    assert sum(ledger.count(status) for status in statuses) == len(ledger.rows)
    assert len({row.origin for row in ledger.rows}) == len(ledger.rows)
    assert len(train.samples) == ledger.num_samples
    ids = [sample.id for sample in train.samples]
    assert len(set(ids)) == len(ids)
    is_bad = [not (row.get("question", "").strip() and row.get("answer", "").strip()) for row in rows]
    assert ledger.count("bad") == sum(is_bad)
    fine = [row for row, bad in zip(rows, is_bad, strict=True) if not bad]
    long_fields = ("answer",) if over_length == "truncate_prompt" else ("answer", "question")  # answers are never cut
    assert ledger.count("too long") == sum(any(row[f].startswith("long") for f in long_fields) for row in fine)
