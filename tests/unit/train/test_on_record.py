"""settings.json and packages.txt: written once a run begins, and kept where a continued run cannot know better."""

from __future__ import annotations

import json
from importlib.metadata import version
from types import SimpleNamespace

from whet.train.on_record import PACKAGES, SETTINGS, Record


def begin(folder, origins, step=0, is_main=True):
    Record(folder, origins).on_start(SimpleNamespace(env=SimpleNamespace(is_main=is_main)), step)


def test_origins_and_packages_are_written_by_rank_0_alone(tmp_path):
    begin(tmp_path, {"seed": (42, "default")}, is_main=False)
    assert list(tmp_path.iterdir()) == []
    begin(tmp_path, {"optim.betas": ((0.9, 0.999), "a.yaml:3")})
    assert json.loads((tmp_path / SETTINGS).read_text()) == {
        "optim.betas": {"value": [0.9, 0.999], "origin": "a.yaml:3"}
    }
    packages = (tmp_path / PACKAGES).read_text().splitlines()
    assert f"torch=={version('torch')}" in packages and not any("/" in line or "@" in line for line in packages)


def test_a_run_that_goes_on_keeps_where_unchanged_values_came_from(tmp_path):
    begin(tmp_path, {"seed": (42, "a.yaml:1"), "optim.lr": (0.1, "a.yaml:2")})
    begin(tmp_path, {"seed": (42, "recipe.yaml:9"), "optim.lr": (0.2, "command line")}, step=5)
    origins = {key: each["origin"] for key, each in json.loads((tmp_path / SETTINGS).read_text()).items()}
    assert origins == {"seed": "a.yaml:1", "optim.lr": "command line"}


def test_a_new_run_forgets_an_earlier_one(tmp_path):
    begin(tmp_path, {"seed": (42, "a.yaml:1")})
    begin(tmp_path, {"seed": (42, "b.yaml:7")})
    assert json.loads((tmp_path / SETTINGS).read_text())["seed"]["origin"] == "b.yaml:7"
