import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_llama

from whet.parallel.env import Env
from whet.recipe.schema import Adapter, Data, Model, Optim, Parallel, Recipe, Source
from whet.train import memory_plan, placement

RECIPE = Recipe(
    name="r", output="runs/r", data=Data(train=(Source(source="rows.jsonl"),)), model=Model(dtype="float32"),
    adapter=Adapter(method="none"),
)  # fmt: skip
NUM_WEIGHTS = sum(p.numel() for p in tiny_llama(torch.float32).parameters())
STATE_BYTES = 16 * NUM_WEIGHTS
"""weight, gradient and both moments in float32"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_llama(torch.float32).config.to_dict(), default=str))
    return tmp_path


@pytest.fixture
def give(monkeypatch):
    """So many bytes free for this process, which holds none."""

    def free(num_bytes):
        monkeypatch.setattr(memory_plan, "_free_bytes", lambda _: num_bytes)
        monkeypatch.setattr(memory_plan, "_held_bytes", lambda _: 0)

    return free


def chosen(recipe, folder, *, num_ranks=2):
    env = Env(world_size=num_ranks, local_world_size=1)
    return placement._simplest(recipe, env, torch.device("cpu"), folder)


def test_weights_are_sharded_where_the_state_of_a_rank_does_not_fit(folder, give):
    give(int(1.01 * STATE_BYTES / 0.8))
    assert chosen(RECIPE, folder) == "replicate"
    give(int(0.99 * STATE_BYTES / 0.8))
    assert chosen(RECIPE, folder) == "fsdp"


def test_an_adapter_leaves_room_that_all_weights_do_not(folder, give):
    give(int(0.5 * STATE_BYTES / 0.8))
    assert chosen(RECIPE, folder) == "fsdp"
    assert chosen(replace(RECIPE, adapter=Adapter(rank=1)), folder) == "replicate"


def test_ranks_that_share_layers_divide_the_state_before_it_is_sharded(folder, give):
    give(int(0.51 * STATE_BYTES / 0.8))
    assert chosen(replace(RECIPE, parallel=Parallel(tensor=2)), folder, num_ranks=4) == "replicate"
    assert chosen(RECIPE, folder, num_ranks=4) == "fsdp"


@pytest.mark.parametrize(
    "changed",
    [
        {"model": Model(quantize="nf4"), "adapter": Adapter()},
        {"optim": Optim(name="adamw_8bit")},
        {"parallel": Parallel(tensor=2)},
    ],
    ids=str,
)
def test_what_cannot_be_sharded_stays_whole_whatever_the_memory(folder, give, changed):
    give(1)
    assert chosen(replace(RECIPE, **changed), folder) == "replicate"


def test_nothing_is_sharded_where_the_free_memory_is_not_known(folder, give):
    give(None)
    assert chosen(RECIPE, folder) == "replicate"


def test_one_process_says_nothing_and_holds_everything(folder, give):
    give(1)
    said = []
    layout = placement.choose_layout(RECIPE, Env(), torch.device("cpu"), folder, said.append)
    assert not layout.is_sharded and said == []
