import pytest
import torch
from tiny import tiny_llama

from whet.inference.engine import Decoding, generate
from whet.kernels import attention


@pytest.fixture(scope="module")
def model():
    model = tiny_llama(torch.float32)
    attention.install(model)
    return model


def test_no_prompts_give_no_completions(model):
    assert generate(model, [], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=3, batch_rows=2)) == []


def test_every_finished_row_is_told_once_with_the_count_so_far(model):
    told = []
    prompts = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]]
    generate(
        model, prompts, stop_ids=frozenset(), decoding=Decoding(max_new_tokens=3, batch_rows=2),
        on_finished=lambda index, num_finished: told.append((index, num_finished)),
    )  # fmt: skip
    assert sorted(index for index, _ in told) == [0, 1, 2, 3]
    assert [num_finished for _, num_finished in told] == [1, 2, 3, 4]


def test_the_model_is_left_in_evaluation_mode_without_gradients(model):
    model.train()
    generate(model, [[5]], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=2, batch_rows=1))
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_rows_side_by_side_are_no_part_of_what_reports_compare():
    assert str(Decoding(max_new_tokens=5, batch_rows=1)) == str(Decoding(max_new_tokens=5, batch_rows=8))
    assert str(Decoding(max_new_tokens=5, batch_rows=1)) != str(Decoding(max_new_tokens=6, batch_rows=1))
