"""Odd surroundings: no home, an old terminal, umask 0, nobody reading, names with spaces and letters of the world."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_without_home_on_a_latin_terminal_with_umask_0_and_an_odd_folder_name(workplace):
    del workplace.environment["HOME"], workplace.environment["WHET_CACHE"]
    odd = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "latin-1", "TMPDIR": str(workplace.folder)}
    workplace.environment |= odd
    name = "\u00dcbung mit Leerzeichen \u7df4\u7fd2"
    workplace.write_recipe(output=str(workplace.folder / name), name=name)
    said = workplace.train("train.max_steps=2", umask=0, encoding="latin-1")
    assert "\u00dcbung mit Leerzeichen \\u7df4\\u7fd2" in said
    assert "\x1b" not in said and "\r" not in said
    assert "step 2/2" in said
    run = workplace.folder / name
    assert (run / "adapter_model.safetensors").is_file()
    open_to_all = [path.name for path in [run, *run.rglob("*")] if path.stat().st_mode & stat.S_IWOTH]
    assert open_to_all == []


def test_a_name_that_the_file_system_encoding_lacks_is_refused_with_what_helps(workplace):
    workplace.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    workplace.write_recipe(output="\u00dcbung")
    said = workplace.train(expect=5)
    assert "PYTHONUTF8=1" in said
    assert "Traceback" not in said


def test_when_the_reader_goes_away_the_run_goes_on(workplace, uninterrupted):
    """As in `whet train recipe.yaml 2>&1 | head -1`."""
    process = workplace.start("train", str(workplace.recipe))
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert workplace.hashes() == uninterrupted.hashes


def test_a_full_log_disk_stops_nothing_and_a_private_umask_is_kept(workplace, uninterrupted):
    with Path("/dev/full").open("w") as full:
        workplace.train(stdout=full, stderr=full, umask=0o077)
    assert workplace.hashes() == uninterrupted.hashes
    run = workplace.folder / "run"
    assert [path.name for path in [run, *run.rglob("*")] if path.stat().st_mode & 0o077] == []
