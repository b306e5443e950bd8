"""Files appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from whet import atomic
from whet.errors import StorageError


def test_a_file_is_replaced_and_no_temporary_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "summary.json"
    atomic.write_text(target, "old")
    atomic.write_text(target, "new \N{GREEK SMALL LETTER ALPHA}")
    assert target.read_bytes() == "new \N{GREEK SMALL LETTER ALPHA}".encode()
    assert [path.name for path in target.parent.iterdir()] == ["summary.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "summary.json"
    atomic.write_text(target, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"No space left on device.*\n.*mend") as caught:
        atomic.write_text(target, "new")
    assert caught.value.exit_code == 5
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_written_file_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "report.html", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_its_victim_left_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "report.html").symlink_to(victim)
    atomic.write_text(tmp_path / "report.html", "report")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "report.html").is_symlink()


def test_removing_what_is_not_there_is_fine_and_a_folder_is_refused(tmp_path: Path) -> None:
    atomic.remove(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    atomic.remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="could not be removed"):
        atomic.remove(tmp_path)
