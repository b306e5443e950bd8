import os

import pytest
import torch

from whet.train.fixed_order import fixed_order


def _state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_on_the_cpu_nothing_changes():
    before = _state()
    with fixed_order(torch.device("cpu")):
        assert _state() == before


@pytest.mark.parametrize("is_strict", [False, True])
def test_on_a_gpu_the_order_is_fixed_inside_and_what_was_set_comes_back(monkeypatch, is_strict):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(is_strict)
    before = _state()
    try:
        with pytest.raises(ZeroDivisionError), fixed_order(torch.device("cuda")):
            assert _state() == (True, not is_strict, False)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            raise ZeroDivisionError
        assert _state() == before
    finally:
        torch.use_deterministic_algorithms(False)
