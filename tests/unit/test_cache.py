"""The cache folder is found by the usual rules, written by one process at a time, and hashes are not computed twice."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from whet import cache
from whet.errors import StorageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test touches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WHET_CACHE", str(folder))
    return folder


def test_whet_cache_comes_before_xdg_before_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("WHET_CACHE")
    assert cache.cache_folder() == tmp_path / "xdg" / "whet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored by the XDG base directory specification
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "whet"


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "WHET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"whet-cache-{os.getuid()}"


def test_without_a_home_a_private_temporary_folder_is_used_and_said(no_home, caplog):
    assert cache.cache_folder() == no_home
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert "HOME is not set" in caplog.text
    assert str(no_home) in caplog.text


def test_a_temporary_folder_that_others_can_write_is_refused(no_home):
    no_home.mkdir()
    no_home.chmod(0o777)
    with pytest.raises(StorageError, match="can be written by others"):
        cache.cache_folder()


def test_a_link_in_place_of_the_temporary_folder_is_refused(no_home, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    no_home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="belongs to somebody else"):
        cache.cache_folder()


def test_compiled_code_is_kept_where_nobody_else_may_write(own_cache, monkeypatch):
    """torch unpickles what it finds in that folder; its own choice lies in /tmp under a name that anybody can take."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "chosen")
    cache.keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "chosen"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    cache.keep_compiled_code_private()
    folder = own_cache / "inductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder) and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder.chmod(0o777)
    with pytest.raises(StorageError, match="can be written by others"):
        cache.keep_compiled_code_private()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set WHET_CACHE"):
        cache.make_folder(tmp_path / "file" / "models")


def test_a_full_disk_tells_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 5_000_000))
    with pytest.raises(StorageError, match="800 MB are needed, 5 MB are free"):
        cache.check_free_space(tmp_path, 800_000_000)
    assert "no space left" in str(cache.cannot_write(tmp_path, OSError(errno.ENOSPC, "full")))


def test_sha256_is_the_files_and_is_computed_once(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"abc" * 1000)
    calls = []
    compute = cache.digest_of
    monkeypatch.setattr(cache, "digest_of", lambda path: calls.append(path) or compute(path))
    assert cache.sha256_of(path) == cache.sha256_of(path) == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert calls == [path]


def test_sha256_is_computed_anew_when_the_file_changed(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    cache.sha256_of(path)
    before = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(before + 1, before + 1))
    assert cache.sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_sha256_is_computed_anew_when_another_file_takes_the_place_with_the_same_time(tmp_path):
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    cache.sha256_of(path)
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)
    assert cache.sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_a_broken_note_of_a_hash_is_ignored(tmp_path, own_cache):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    cache.sha256_of(path)
    for note in (own_cache / "sha256").iterdir():
        note.write_text("[1, 2")
    assert cache.sha256_of(path) == hashlib.sha256(b"one").hexdigest()


def test_a_cache_that_cannot_be_written_costs_time_only_and_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "file"))
    assert cache.sha256_of(tmp_path / "file") == hashlib.sha256(b"").hexdigest()
    assert "cannot be remembered" in caplog.text


HOLD = """
import sys, time
from pathlib import Path
from whet.cache import one_writer
with one_writer(Path(sys.argv[1])), Path(sys.argv[2]).open("a") as log:
    log.write("in ")
    log.flush()
    time.sleep(0.2)
    log.write("out ")
"""


def test_a_second_writer_waits_for_the_first(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a.lock"), str(tmp_path / "log")]
    holders = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    messages = "".join(holder.communicate()[1] for holder in holders)
    assert (tmp_path / "log").read_text() == "in out in out in out "
    assert "another process is preparing a; waiting for it" in messages


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    with cache.one_writer(tmp_path / "a.lock"):
        pass
