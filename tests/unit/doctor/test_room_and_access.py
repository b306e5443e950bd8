from collections import namedtuple

import pytest

from whet.doctor import room
from whet.doctor.access import check_access
from whet.doctor.room import check_room

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _nothing_of_this_user(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def test_disks_with_room_are_good_and_nothing_is_left_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "not" / "yet"))
    found = {finding.check: finding for finding in check_room(tmp_path)}
    assert {each.state for each in found.values()} == {"good"}
    assert found["cache"].found.endswith("1000.0 GB free, made when it is needed")
    assert list(tmp_path.iterdir()) == []


def test_a_nearly_full_disk_is_a_note_and_one_that_cannot_be_written_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**8))
    a_file = tmp_path / "file"
    a_file.touch()
    monkeypatch.setenv("WHET_CACHE", str(a_file))
    found = {finding.check: finding for finding in check_room(tmp_path)}
    assert found["disk"].state == "note" and "free some space" in found["disk"].mend
    assert found["cache"].state == "fault" and found["cache"].mend.startswith("set WHET_CACHE")


def test_a_disk_that_is_only_read_is_found_by_writing(monkeypatch, tmp_path):
    def refuse(**where):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(room.tempfile, "mkstemp", refuse)
    assert {each.check: each.state for each in check_room(tmp_path)}["disk"] == "fault"


def test_a_token_is_told_of_by_where_it_is_and_never_shown(monkeypatch):
    missing = check_access()[0]
    assert missing.state == "note" and missing.mend.startswith("hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_CANARYCANARY")
    monkeypatch.setenv("WANDB_API_KEY", "CANARYCANARY")
    monkeypatch.setenv("HF_ENDPOINT", "http://" + "user:CANARYCANARY" + "@mirror.example")
    found = {finding.check: finding for finding in check_access()}
    assert found["hub token"].found == "there is one, from the environment variable HF_TOKEN"
    assert found["hub"].state == "note" and "unencrypted" in found["hub"].why
    assert found["WANDB_API_KEY"].found == "set"
    assert "CANARY" not in str(found)
