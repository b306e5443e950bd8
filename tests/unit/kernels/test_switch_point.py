import pytest
import torch

from whet.kernels import switch_point
from whet.kernels.switch_point import best_limit, measure_switch_point


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [
        ({256: (1.0, 2.0), 512: (3.0, 2.0)}, 256),
        ({256: (1.0, 2.0), 512: (2.0, 3.0)}, 512),
        ({256: (2.0, 1.0), 512: (9.0, 3.0)}, 0),
        # the first length was disturbed: two clear answers outweigh it
        ({256: (1.2, 1.0), 512: (2.0, 6.0), 1024: (9.0, 18.0)}, 1024),
        ({}, 0),
    ],
)
def test_the_limit_is_the_one_that_loses_least(seconds, limit):
    assert best_limit(seconds) == limit


@pytest.mark.parametrize("winner", ["matmul", "fused"])
def test_the_faster_path_gets_the_documents(monkeypatch, winner):
    monkeypatch.setattr(switch_point, "LENGTHS", (8, 16))
    slow = "fused_attention" if winner == "matmul" else "tiled_attention"
    plain = getattr(switch_point, slow)
    monkeypatch.setattr(switch_point, slow, lambda *arguments: sum(plain(*arguments) for _ in range(20)))
    assert measure_switch_point(4, 2, 8, torch.bfloat16) == (16 if winner == "matmul" else 0)


def test_lengths_beyond_the_budget_are_left_out(monkeypatch):
    monkeypatch.setattr(switch_point, "_BUDGET_SECONDS", 0.0)
    lengths = []
    monkeypatch.setattr(switch_point, "_seconds", lambda _, inputs: lengths.append(inputs[0].shape[1]) or 1.0)
    assert measure_switch_point(64, 8, 8, torch.float32) in (0, 256)
    assert set(lengths) == {256}


def test_more_heads_than_needed_are_not_measured(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        switch_point, "_seconds", lambda _, inputs: shapes.append(tuple(len(x) for x in inputs)) or 1.0
    )  # fmt: skip
    for heads in ((9, 3), (32, 8), (64, 2), (4, 4)):
        measure_switch_point(*heads, 8, torch.bfloat16)
    assert list(dict.fromkeys(shapes)) == [(9, 3, 3), (12, 3, 3), (32, 1, 1), (4, 4, 4)]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_one_thread_measures_and_the_process_gets_its_threads_back(monkeypatch, num_threads):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(switch_point, "_seconds", lambda *_: seen.append(torch.get_num_threads()) or 1.0)
    torch.set_num_threads(num_threads)
    try:
        measure_switch_point(4, 2, 8, torch.bfloat16)
        assert set(seen) == {1} and torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
