"""Fingerprints see every bit, and steps are compared in the order in which one thing follows from another."""

from dataclasses import replace

import pytest
import torch

from whet.train import step_bits
from whet.train.step_bits import StepBits, bits_from, checksum, fingerprint, first_difference

STEP = StepBits(
    step=7, batch_hash="ab", lr=0.1, loss=2.5, grad_norm=1.5, rows="cd", weights=("ef", "12"), moments=("34", "56")
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
def test_one_flipped_bit_anywhere_changes_the_checksum(monkeypatch, dtype):
    monkeypatch.setattr(step_bits, "_CHUNK", 8)  # the tensor lies in three chunks
    tensor = (torch.arange(20) * 3 + 1).to(dtype)
    before = checksum(tensor)
    assert before == checksum(tensor.clone()) != 0
    as_integers = tensor.view(torch.uint8)
    for byte in range(len(as_integers)):
        for bit in (0, 7):
            as_integers[byte] ^= 1 << bit
            assert checksum(tensor) != before
            as_integers[byte] ^= 1 << bit
    assert checksum(tensor) == before


def test_the_checksum_is_that_of_plain_integers():
    tensor = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    bits = [int(each) for each in tensor.reshape(-1).view(torch.int32)]
    assert checksum(tensor) == sum((2 * i + 1) * b for i, b in enumerate(bits)) % 2**64
    assert checksum(tensor.T) != checksum(tensor), "the order of the elements counts"


def test_minus_zero_and_names_count():
    assert fingerprint({"a": torch.tensor([0.0])}) != fingerprint({"a": torch.tensor([-0.0])})
    assert fingerprint({"a": torch.tensor([1.0])}) != fingerprint({"b": torch.tensor([1.0])})


CHANGES = {
    "batch_hash": "x", "rows": "x", "lr": 0.2, "loss": 2.6, "grad_norm": 1.6, "weights": ("x", "12"),
    "moments": ("34", "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_the_first_difference_is_the_one_that_the_others_follow_from(name):
    later = list(CHANGES)[list(CHANGES).index(name) :]
    found = first_difference(STEP, replace(STEP, **{each: CHANGES[each] for each in later}))
    assert found.name == name and found.sentence.startswith("step 7 differs in the ")


def test_what_is_not_known_of_a_step_is_not_compared():
    known = StepBits(step=7, batch_hash="ab", lr=0.1, loss=2.5, grad_norm=1.5)
    assert first_difference(known, STEP) is None
    other_ranks = replace(STEP, weights=("ef",), moments=("34",))
    assert first_difference(STEP, other_ranks) is None


def test_a_step_comes_back_from_its_line_to_the_last_bit():
    line = {"kind": "step", "step": 7, "batch_hash": "ab", "lr": 0.1, "loss": 0.1 + 0.2, "grad_norm": 1e-300}
    assert bits_from(line) == StepBits(step=7, batch_hash="ab", lr=0.1, loss=0.1 + 0.2, grad_norm=1e-300)
    assert bits_from(line | {"weights": ["a", "b"], "seconds": 1.0}).weights == ("a", "b")
    assert bits_from(line | {"loss": None}) is None
