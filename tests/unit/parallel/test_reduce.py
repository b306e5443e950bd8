"""One process; two real ones are in tests/numerics/test_world_size.py."""

import pytest
import torch

from whet.errors import PeerLostError
from whet.parallel import reduce


def test_alone_nothing_changes():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    numbers = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert reduce.all_reduce_step([parameter], numbers) is numbers
    assert parameter.grad.tolist() == [1.0, 2.0]
    assert reduce.sum_over_ranks([1.5, 2], torch.device("cpu")) == [1.5, 2]
    assert reduce.broadcast_text("a") == "a"
    assert reduce.gather_texts("a") == ["a"]
    reduce.broadcast_from_main([parameter])
    reduce.barrier()


@pytest.fixture
def two_ranks(monkeypatch):
    """As if a second rank with the same numbers were there."""
    monkeypatch.setattr(reduce.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(reduce.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(reduce.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(reduce.dist, "all_reduce", lambda flat, group=None: flat.mul_(2))


def test_gradients_and_numbers_travel_in_one_buffer_and_come_back_to_their_places(monkeypatch, two_ranks):
    calls = []
    monkeypatch.setattr(reduce.dist, "all_reduce", lambda flat, group=None: (calls.append(flat.numel()), flat.mul_(2)))
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1,))]
    parameters[0].grad = torch.arange(6.0).view(2, 3)
    parameters[2].grad = torch.tensor([7.0])
    summed = reduce.all_reduce_step(parameters, torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64))
    assert summed.tolist() == [1.0, 0.0, 2.0] and summed.dtype == torch.float64
    assert calls == [6 + 4 + 1 + 3]
    assert parameters[0].grad.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert parameters[1].grad.tolist() == [0.0] * 4
    assert parameters[2].grad.tolist() == [14.0]


def test_bfloat16_gradients_are_summed_in_float32_and_the_loss_keeps_its_digits(monkeypatch, two_ranks):
    dtypes = []
    monkeypatch.setattr(reduce.dist, "all_reduce", lambda flat, group=None: (dtypes.append(flat.dtype), flat.mul_(2)))
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    parameter.grad = torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    assert reduce.all_reduce_step([parameter], torch.tensor([1234.0625])).tolist() == [2468.125]
    assert dtypes == [torch.float32]
    assert parameter.grad.dtype == torch.bfloat16 and parameter.grad.tolist() == [2.0, 5.0]


def test_a_lost_peer_is_named_as_such(monkeypatch, two_ranks):
    def fail(_flat, group):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(reduce.dist, "all_reduce", fail)
    with pytest.raises(PeerLostError, match="rank 1 waited for the others") as error:
        reduce.all_reduce_step([torch.nn.Parameter(torch.zeros(1))], torch.zeros(1))
    assert error.value.exit_code == 7 and "same command again" in error.value.mend


def test_a_peer_that_does_not_tell_its_text_is_named_as_lost(monkeypatch, two_ranks):
    def fail(_gathered, _tensor, group):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(reduce.dist, "get_backend", lambda _group: "gloo")
    monkeypatch.setattr(reduce.dist, "all_gather", fail)
    with pytest.raises(PeerLostError, match="rank 1 waited for the others in the exchange of texts"):
        reduce.gather_texts("a")
