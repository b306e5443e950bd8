import json

import pytest
import torch

from whet.parallel import flight_recorder


@pytest.fixture
def dump(monkeypatch):
    """As if NCCL had recorded something."""
    trace = {"version": "2.9", "entries": [{"profiling_name": "nccl:all_reduce", "state": "scheduled"}]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch._C._distributed_c10d, "_dump_nccl_trace_json", lambda: json.dumps(trace).encode(), raising=False
    )
    return trace


def test_what_nccl_recorded_is_kept_as_json(dump, tmp_path):
    path = flight_recorder.write(tmp_path, 3)
    assert path == tmp_path / "ranks" / "rank-3.nccl.json" and json.loads(path.read_text()) == dump


def test_where_nothing_was_recorded_nothing_is_written(dump, tmp_path):
    dump["entries"] = []
    assert flight_recorder.write(tmp_path, 0) is None and not list(tmp_path.iterdir())


def test_without_nccl_there_is_no_record(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert flight_recorder.write(tmp_path, 0) is None


def test_torchs_own_dump_which_is_a_pickle_stays_off_unless_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("TORCH_NCCL_DUMP_ON_TIMEOUT", raising=False)
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "7")
    monkeypatch.setattr(flight_recorder.os, "environ", dict(flight_recorder.os.environ))
    flight_recorder.switch_on()
    assert flight_recorder.os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0"
    assert flight_recorder.os.environ["TORCH_FR_BUFFER_SIZE"] == "7"
