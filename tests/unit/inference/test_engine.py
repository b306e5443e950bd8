import pytest
import torch
from tiny import tiny_llama

from whet.inference import engine
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


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_where_memory_runs_out_fewer_rows_at_a_time_write_the_same(model, monkeypatch, temperature):
    prompts = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [3, 4]]
    decoding = Decoding(max_new_tokens=4, batch_rows=5, temperature=temperature)
    expected = generate(model, prompts, stop_ids=frozenset(), decoding=decoding)
    step = engine._Decoder.step

    def short_step(self):
        if len(self.rows) > 1:
            raise MemoryError
        step(self)

    monkeypatch.setattr(engine._Decoder, "step", short_step)
    told = []
    found = generate(model, prompts, stop_ids=frozenset(), decoding=decoding, on_fewer_rows=told.append)
    assert found == expected and told == [2, 1]
    with pytest.raises(MemoryError):
        generate(model, prompts, stop_ids=frozenset(), decoding=decoding, may_halve=False)


def test_one_row_that_does_not_fit_and_another_error_come_out(model, monkeypatch):
    errors = iter([MemoryError(), RuntimeError("shapes")])

    def fail(_decoder):
        raise next(errors)

    monkeypatch.setattr(engine._Decoder, "step", fail)
    decoding = Decoding(max_new_tokens=4, batch_rows=5)
    with pytest.raises(MemoryError):
        generate(model, [[5, 6]], stop_ids=frozenset(), decoding=decoding)
    with pytest.raises(RuntimeError, match="shapes"):
        generate(model, [[5, 6], [7]], stop_ids=frozenset(), decoding=decoding)
