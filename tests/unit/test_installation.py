"""What the pins ask of Python, what stands in for a library that needs a compiler, and what the images are made of."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "requirements" / "pycosat"


def test_the_stand_in_has_the_version_that_is_asked_for_and_says_what_is_missing_when_it_is_called():
    project = tomllib.loads((STAND_IN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"{project['name']}=={project['version']}" in pinned
    spec = importlib.util.spec_from_file_location("stand_in", STAND_IN / "pycosat.py")
    assert spec is not None and spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    for call in (stand_in.solve, stand_in.itersolve):
        with pytest.raises(RuntimeError, match=r"C compiler.*pip install .*pycosat==0\.6\.6"):
            call([[1, 2]], vars=2)


def test_every_pinned_library_that_is_here_runs_on_the_oldest_python_that_whet_names():
    """pip tells nobody: it turns over every version of everything else, for minutes without an end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = f"{project['requires-python'].removeprefix('>=')}.0"
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    pinned = {canonicalize_name(pin[0]) for pin in pins if len(pin) == 2}
    here = [each for each in metadata.distributions() if canonicalize_name(each.name) in pinned]
    wanted = {each.name: SpecifierSet(each.metadata.get("Requires-Python") or "") for each in here}
    too_new = {name: f"Python {versions}" for name, versions in wanted.items() if oldest not in versions}
    assert len(here) > 50 and not too_new


@pytest.mark.parametrize("dockerfile", sorted((ROOT / "docker").glob("Dockerfile.*")), ids=lambda path: path.name)
def test_all_that_an_image_copies_is_let_through_to_its_build(dockerfile):
    let_through = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    ]
    copied = [
        source for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for source in line.split()[:-1]
    ]  # fmt: skip
    assert copied and set(copied) <= set(let_through)
    assert all((ROOT / source).exists() for source in copied)
