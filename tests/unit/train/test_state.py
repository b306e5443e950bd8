"""What a continued run does to the folder before its first step."""

from __future__ import annotations

import pytest
import torch

from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.names import BEST, list_steps
from whet.checkpoint.save import copy_checkpoint, save_checkpoint
from whet.errors import NonFiniteError, StorageError
from whet.train.best import Best
from whet.train.state import Saver


@pytest.fixture
def save(tmp_path):
    def write(step):
        return save_checkpoint(
            tmp_path, step=step, tensors={"w.safetensors": {"w": torch.tensor([float(step)])}}, documents={}, files={}
        )

    return write


def saver(run_folder, *, best_step):
    best = Best(step=best_step, value=1.0) if best_step else Best()
    unused = dict.fromkeys(("plan", "trainables", "optimizer", "callbacks", "identity"))
    return Saver(run_folder=run_folder, keep=2, best=best, data_fingerprint="", recipe_yaml="", files={}, **unused)


@pytest.mark.parametrize("had_best", [False, True])
def test_a_crash_between_a_checkpoint_and_its_copy_to_best_is_mended(save, tmp_path, had_best):
    if had_best:
        copy_checkpoint(save(1), tmp_path / BEST)
    newest = open_checkpoint(save(2))
    saver(tmp_path, best_step=2).go_on_from(newest, print)
    assert open_checkpoint(tmp_path / BEST).step == 2


def test_an_older_best_is_left_alone(save, tmp_path):
    copy_checkpoint(save(1), tmp_path / BEST)
    saver(tmp_path, best_step=1).go_on_from(open_checkpoint(save(2)), print)
    assert open_checkpoint(tmp_path / BEST).step == 1


def test_without_a_finite_measurement_there_is_no_best_to_end_with(tmp_path):
    with pytest.raises(NonFiniteError, match=r"no measurement of loss was finite.*\n.*train\.final=last"):
        saver(tmp_path, best_step=None).load_best()


def test_another_steps_checkpoint_is_not_taken_for_the_best(save, tmp_path):
    copy_checkpoint(save(2), tmp_path / BEST)
    with pytest.raises(StorageError, match="checkpoint-best: is step 2, but step 1 was the best"):
        saver(tmp_path, best_step=1).load_best()


def test_going_on_from_an_older_checkpoint_says_where_the_later_ones_went(save, tmp_path):
    said = []
    older = open_checkpoint(save(1))
    save(2)
    saver(tmp_path, best_step=None).go_on_from(older, said.append)
    assert said == ["checkpoints after step 1 were moved to superseded-1"]
    assert list_steps(tmp_path) == [1]
