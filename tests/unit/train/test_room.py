"""How finely passes are cut: agreed on by all ranks, from a step on, and remembered."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import make_plan

from whet.data.packing import pack
from whet.errors import OutOfMemoryError
from whet.train import room as room_file
from whet.train.callbacks import Callbacks, QuietCallback
from whet.train.incidents import append_incident
from whet.train.laps import Laps
from whet.train.pass_size import PassSize
from whet.train.room import Cut, Room, ShortageError

PLAN = make_plan(16, micro_batch=4, global_batch=8)
LARGE = PassSize(lengths=(30, 20, 9, 5), num_taught=40, what="CUDA out of memory.")
ONE = PassSize(lengths=(30,), num_taught=20, what="CUDA out of memory.")


class Told(QuietCallback):
    def __init__(self):
        self.incidents = []

    def on_incident(self, incident):
        self.incidents.append(incident)


def make_run(told=None, *, lanes=None):
    return SimpleNamespace(plan=PLAN, lanes=lanes, callbacks=Callbacks([told or Told()]))


def of_ranks(monkeypatch, *sizes):
    """What every rank says; the test is any of them."""
    texts = [json.dumps(size and asdict(size)) for size in sizes]
    monkeypatch.setattr(room_file, "gather_texts", lambda _own: texts)


def test_a_rank_that_had_memory_enough_cuts_as_the_one_that_had_not(monkeypatch):
    of_ranks(monkeypatch, None, LARGE)
    short, other, told = Room(), Room(), Told()
    short.cut_smaller(make_run(), 6, LARGE)
    other.cut_smaller(make_run(told), 6, None)
    assert short.at(6) == other.at(6) == Cut(step=6, num_parts=2, micro_batch=4)
    (incident,) = told.incidents
    assert incident.step == 7 and incident.facts["ranks"] == [1]
    assert incident.text == (
        "step 7: out of memory in a pass of 4 samples (64 tokens) on rank 1; the step begins anew with the same "
        "samples, and from here on every pass of the plan is computed in 2 parts"
    )


def test_a_cut_holds_from_its_step_on(monkeypatch):
    room = Room()
    of_ranks(monkeypatch, LARGE)
    for step in (3, 3, 8):
        room.cut_smaller(make_run(), step, LARGE)
    assert [room.at(step).num_parts for step in (0, 2, 3, 7, 8, 99)] == [1, 1, 4, 4, 8, 8]


def test_one_sample_cannot_be_cut_and_ends_every_rank(monkeypatch):
    of_ranks(monkeypatch, None, ONE, LARGE)
    for own in (None, ONE, LARGE):
        room = Room()
        with pytest.raises(OutOfMemoryError, match=r"a pass of 1 sample .30 tokens. on rank 1, 2, which cannot be cut"):
            room.cut_smaller(make_run(), 0, own)
        assert room.at(0) == Cut()


def test_of_passes_side_by_side_one_sample_is_computed_alone(monkeypatch):
    of_ranks(monkeypatch, ONE)
    room = Room()
    room.cut_smaller(make_run(lanes=object()), 2, ONE)
    assert room.at(2).is_single and not room.at(1).is_single
    with pytest.raises(OutOfMemoryError):
        room.cut_smaller(make_run(lanes=object()), 2, ONE)


def test_what_a_pass_was_computed_with_is_out_of_reach_when_its_shortage_is_told():
    batch = pack([SimpleNamespace(id="a", ids=_ids(5), taught=_ids(5) > 2, num_tokens=5)])

    def one_pass(batch, laps, backward):
        activations = bytearray(8)
        raise MemoryError("no memory", activations)

    with pytest.raises(ShortageError) as caught:
        Room().watched(one_pass, may_fail_alone=True)(batch, Laps(), lambda _: None)
    size = caught.value.size
    assert (size.lengths, size.num_taught) == ((5,), 2) and size.what.startswith("('no memory'")
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_where_others_take_part_in_a_pass_its_shortage_ends_the_run():
    batch = pack([SimpleNamespace(id="a", ids=_ids(5), taught=_ids(5) > 2, num_tokens=5)])

    def one_pass(batch, laps, backward):
        raise MemoryError("none")

    with pytest.raises(OutOfMemoryError, match="in which the other ranks take part") as caught:
        Room().watched(one_pass, may_fail_alone=False)(batch, Laps(), lambda _: None)
    assert caught.value.__context__ is None


def test_another_error_of_a_pass_comes_out_as_it_is():
    def one_pass(batch, laps, backward):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        Room().watched(one_pass, may_fail_alone=True)(None, Laps(), lambda _: None)


def test_cuts_go_through_a_checkpoint(monkeypatch):
    of_ranks(monkeypatch, LARGE)
    room, continued = Room(), Room()
    room.cut_smaller(make_run(), 3, LARGE)
    continued.load(json.loads(json.dumps(room.state())), PLAN)
    assert continued.at(3) == room.at(3) and continued.state() == room.state()


@pytest.mark.parametrize(("micro_batch", "num_parts"), [(4, 4), (2, 2), (1, 1), (3, 3), (8, 1)])
def test_under_another_plan_parts_stay_as_small_unless_passes_were_made_larger(micro_batch, num_parts):
    room = Room()
    room.load([asdict(Cut(step=3, num_parts=4, micro_batch=4))], replace(PLAN, micro_batch=micro_batch))
    assert room.at(5).num_parts == num_parts


def test_incidents_tell_of_steps_that_are_made_again(monkeypatch, tmp_path: Path):
    of_ranks(monkeypatch, LARGE)
    told, room, continued = Told(), Room(), Room()
    for step in (3, 5):
        room.cut_smaller(make_run(told), step, LARGE)
    for incident in told.incidents:
        append_incident(tmp_path, incident)
    continued.recall(tmp_path, PLAN, is_main=True)
    assert continued.state() == room.state()


def test_a_shortage_elsewhere_is_explained_with_the_largest_pass_of_the_step():
    heard = []
    room = Room(lambda what, size: heard.append((what, size)) or OutOfMemoryError(what))
    samples = [SimpleNamespace(id=str(n), ids=_ids(n), taught=_ids(n) > 2, num_tokens=n) for n in (5, 9, 7)]
    room.note([pack(samples[:1]), pack(samples[1:]), pack(samples[:1])])
    with pytest.raises(OutOfMemoryError), room.explained("the update of step 4"):
        raise MemoryError("none")
    ((what, size),) = heard
    assert what == "out of memory in the update of step 4: none" and size.lengths == (9, 7)
    with pytest.raises(RuntimeError, match="shapes"), room.explained("the update of step 4"):
        raise RuntimeError("shapes")


def _ids(length):

    return np.arange(length, dtype=np.int32)
