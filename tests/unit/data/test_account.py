import pytest
from tiny import make_samples

from whet.data.account import find_shared_rows, refuse_shared_rows
from whet.data.token_cache import open_tokens
from whet.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))


def _train(name, rows):
    """A tokenized source from (question, parameters) of its rows."""

    def write(writer):
        for number, (question, parameters) in enumerate(rows, start=1):
            writer.add(make_samples([3])[0], content=number, question=question, parameters=parameters,
                       origin=f"{name}:{number}")  # fmt: skip
        return {"num_rows": len(rows)}

    return open_tokens(name.encode().hex().ljust(64, "0"), write)


def test_a_held_out_row_is_shared_by_question_or_by_what_it_is_made_from():
    train = [_train("a", [(1, 10), (2, 20)]), _train("b", [(3, 30), (1, 40)])]
    shared = find_shared_rows(train, questions=[9, 3, 8, 2, 1], parameters=[90, 99, 40, 50, 30])
    assert shared == {
        1: "b:1 (same question)",
        2: "b:2 (same parameters)",
        3: "a:2 (same question)",
        4: "a:1 (same question)",
    }


def test_rows_that_are_made_from_nothing_known_are_not_the_same():
    assert find_shared_rows([_train("a", [(1, 0)])], questions=[2], parameters=[0]) == {}
    assert find_shared_rows([], questions=[1], parameters=[1]) == {}


def test_disjoint_rows_are_not_refused():
    refuse_shared_rows("held_out", {}, {}, 3)


def test_shared_rows_are_refused_by_name():
    shared = {4: "train.jsonl:5 (same question)", 0: "train.jsonl:3 (same parameters)"}
    origins = {0: "test.jsonl:1", 4: "test.jsonl:5"}
    with pytest.raises(DataError) as caught:
        refuse_shared_rows("held_out", shared, origins, 9)
    assert str(caught.value).splitlines()[:3] == [
        "held_out: 2 of 9 rows are also training rows, so a score would mean nothing",
        "    test.jsonl:1 = train.jsonl:3 (same parameters)",
        "    test.jsonl:5 = train.jsonl:5 (same question)",
    ]
    assert "data.shared_rows=drop" in caught.value.mend and caught.value.exit_code == 3
