import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whet.kernels import attention_varlen
from whet.parallel.env import read_env
from whet.train import switch_point
from whet.types import RunPlan

SHAPE = (4, 2, 16)
PLAN = RunPlan(
    world_size=1, micro_batch=1, accumulation=1, global_batch=1, num_samples=1, steps_per_epoch=1, total_steps=1,
    epochs=1.0, warmup_steps=0, save_every=1, eval_every=0,
)  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The cache in a folder of its own, and what was measured there: always 512."""
    shapes = []
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    monkeypatch.setattr(switch_point, "measure_switch_point", lambda *shape: shapes.append(shape) or 512)
    return shapes


def _data(train, validation=None):
    sets = [n and SimpleNamespace(lengths=np.array(n)) for n in (train, validation)]
    return SimpleNamespace(train=sets[0], validation=sets[1])


def _loaded():
    config = SimpleNamespace(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    return SimpleNamespace(config=config, model=SimpleNamespace(config=config), compute_dtype=torch.bfloat16)


def test_what_was_measured_once_is_remembered(measured):
    for _ in range(2):
        assert switch_point.remembered_switch_point(SHAPE, torch.bfloat16) == 512
    assert measured == [(*SHAPE, torch.bfloat16)]


def test_another_shape_dtype_or_torch_is_measured_anew_and_another_thread_count_is_not(measured, monkeypatch):
    switch_point.remembered_switch_point(SHAPE, torch.bfloat16)
    switch_point.remembered_switch_point((8, 2, 16), torch.bfloat16)
    switch_point.remembered_switch_point(SHAPE, torch.float32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    switch_point.remembered_switch_point(SHAPE, torch.bfloat16)
    assert len(measured) == 3
    monkeypatch.setattr(torch, "__version__", "0.0")
    switch_point.remembered_switch_point(SHAPE, torch.bfloat16)
    assert len(measured) == 4


@pytest.mark.parametrize("damage", ["", "[]", '{"state": 1}', "\x00"])
def test_a_damaged_memo_is_measured_anew(measured, tmp_path, damage):
    switch_point.remembered_switch_point(SHAPE, torch.bfloat16)
    (memo,) = tmp_path.glob("switch_points/*.json")
    memo.write_text(damage, encoding="utf-8")
    assert switch_point.remembered_switch_point(SHAPE, torch.bfloat16) == 512
    assert json.loads(memo.read_text(encoding="utf-8"))["longest_matmul_document"] == 512
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_is_told_and_does_not_stop_the_run(measured, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "file"))
    assert switch_point.remembered_switch_point(SHAPE, torch.bfloat16) == 512
    assert "measured at every start" in caplog.text


@pytest.mark.parametrize(("train", "validation"), [([9, 300], None), ([9], [300, 2])])
def test_long_rows_of_any_set_have_the_limit_measured_into_the_plan(measured, train, validation):
    plan = switch_point.with_switch_point(PLAN, _loaded(), _data(train, validation), read_env())
    assert plan == replace(PLAN, longest_matmul_document=512)
    assert measured == [(4, 2, 16, torch.bfloat16)]


def test_nothing_is_measured_for_short_rows(measured):
    assert switch_point.with_switch_point(PLAN, _loaded(), _data([256]), read_env()) == PLAN
    assert measured == []


def test_on_a_gpu_the_plan_says_whose_function_works_there(measured, monkeypatch):
    asked = []

    def choose(heads, device):
        asked.append((heads.num_query, heads.num_key, heads.size, heads.dtype, device.type))
        return "torch"

    monkeypatch.setattr(attention_varlen, "choose", choose)
    on_gpu = replace(PLAN, device="cuda")
    plan = switch_point.with_switch_point(on_gpu, _loaded(), _data([3000]), read_env())
    assert plan == replace(on_gpu, attention="torch")
    assert asked == [(4, 2, 16, torch.bfloat16, "cuda")] and measured == []
