import json

import pytest

from whet.checkpoint.load import Checkpoint
from whet.errors import StorageError
from whet.train.saved_documents import PLAN, STATE, read_plan, read_state

STATE_DOCUMENT = {
    "global_step": 4, "epoch": 1.0, "best_step": 2, "best_metric": 1.25, "best_metric_name": "eval_loss",
    "callbacks": {"monitor": {}}, "base": {"id": "tiny", "revision": None, "weights_sha256": "00"},
    "data_fingerprint": "ab",
}  # fmt: skip
PLAN_DOCUMENT = {
    "world_size": 1, "micro_batch": 4, "accumulation": 2, "global_batch": 8, "num_samples": 26, "steps_per_epoch": 4,
    "total_steps": 8, "epochs": 2.0, "warmup_steps": 0, "save_every": 1, "eval_every": 0,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / STATE).write_text(json.dumps(STATE_DOCUMENT))
    (tmp_path / PLAN).write_text(json.dumps(PLAN_DOCUMENT | {"of_a_later_whet": 1}))
    return Checkpoint(folder=tmp_path, step=4)


def test_what_whet_wrote_is_read_as_it_is(checkpoint):
    assert read_state(checkpoint) == STATE_DOCUMENT
    assert read_plan(checkpoint) == PLAN_DOCUMENT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_step", 5), ("global_step", "4"), ("global_step", True), ("best_step", -1), ("best_metric", "low"),
        ("best_metric", float("nan")), ("base", {}), ("base", {"id": 1, "weights_sha256": "00"}), ("callbacks", []),
        ("callbacks", {"monitor": 1}), ("data_fingerprint", None), ("num_without_improvement", 0.5),
    ],
)  # fmt: skip
def test_a_state_that_no_run_can_have_is_refused_by_name(checkpoint, key, value):
    (checkpoint.folder / STATE).write_text(json.dumps(STATE_DOCUMENT | {key: value}))
    with pytest.raises(StorageError, match=key):
        read_state(checkpoint)


@pytest.mark.parametrize("key", ["global_step", "best_step", "best_metric", "base", "callbacks", "data_fingerprint"])
def test_a_state_without_something_is_refused(checkpoint, key):
    (checkpoint.folder / STATE).write_text(json.dumps({k: v for k, v in STATE_DOCUMENT.items() if k != key}))
    with pytest.raises(StorageError, match=STATE):
        read_state(checkpoint)


@pytest.mark.parametrize(
    "change", [{"world_size": 0}, {"total_steps": "many"}, {"compute_dtype": "int8"}, {"steps_per_epoch": None}]
)
def test_a_plan_that_no_run_can_have_is_refused(checkpoint, change):
    (checkpoint.folder / PLAN).write_text(json.dumps(PLAN_DOCUMENT | change))
    with pytest.raises(StorageError, match=PLAN):
        read_plan(checkpoint)


def test_documents_of_no_form_are_refused(checkpoint):
    for content in ("[]", "7", "[" * 100_000, ""):
        (checkpoint.folder / STATE).write_text(content)
        (checkpoint.folder / PLAN).write_text(content)
        for read in (read_state, read_plan):
            with pytest.raises(StorageError):
                read(checkpoint)
