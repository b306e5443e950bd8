"""Python and the installed libraries: too old for whet, or wanted by two programs in two versions. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from whet.doctor.finding import Finding

Version = Callable[[str], str | None]
"""name of a distribution -> its installed version; None where it is not installed"""

OLDEST_PYTHON = (3, 11)
_SHOWN = ("torch", "transformers", "peft", "huggingface-hub", "tokenizers", "safetensors")
_FEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """Two versions that do not work together although nothing in their packages says so."""

    name: str
    versions: str
    """of `name`: `<4`"""
    why: str
    mend: str
    beside: str = ""
    """only where this one is installed ..."""
    beside_versions: str = ""
    """... in these versions"""


CLASHES = (
    Clash(
        name="leptonai",
        versions="!=0.27.3",
        beside="nemo-run",
        beside_versions="==0.11.1",
        why="nemo_run 0.11.1 imports with leptonai 0.27.3 only, so whet launch slurm does not start",
        mend="pip install leptonai==0.27.3",
    ),
    Clash(
        name="triton",
        versions="!=3.6.*",
        beside="nemo-automodel",
        beside_versions="==0.7.*",
        why="nemo_automodel 0.7 imports with triton 3.6 only",
        mend="give nemo-automodel an environment of its own",
    ),
    Clash(
        name="datasets",
        versions="<4",
        why="it runs Python code that comes with a dataset, so whet refuses it",
        mend="pip install 'datasets>=4'",
    ),
)


def installed_version(name: str) -> str | None:
    """Of a distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_requirements() -> dict[str, list[str]]:
    """Every installed distribution and what it says it needs."""
    return {name: list(each.requires or ()) for each in metadata.distributions() if (name := each.metadata["Name"])}


def check_software(
    version: Version = installed_version, wanted: Mapping[str, list[str]] | None = None
) -> list[Finding]:
    """Python, whet's own requirements, what others require of the same libraries, and known clashes."""
    wanted = installed_requirements() if wanted is None else wanted
    return [check_python(sys.version_info[:3]), _own(version, wanted), _of_others(version, wanted), *_known(version)]


def check_python(now: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    words, oldest = ".".join(map(str, now)), ".".join(map(str, OLDEST_PYTHON))
    is_new_enough = now >= OLDEST_PYTHON
    return Finding(
        check="Python",
        state="good" if is_new_enough else "fault",
        found=f"{words} ({sys.prefix})",
        why=f"whet is written for {oldest} and newer",
        mend="" if is_new_enough else f"make the environment with Python {oldest} or newer",
    )


def _own(version: Version, wanted: Mapping[str, list[str]]) -> Finding:
    """whet's own requirements, without extras."""
    broken = [words for words, _ in _broken("whet", wanted.get("whet", []), version)]
    shown = ", ".join(f"{name} {found}" for name in _SHOWN if (found := version(name)))
    return Finding(
        check="libraries",
        state="fault" if broken else "good",
        found="; ".join(broken) if broken else shown,
        why="older ones lack what whet calls: a verb ends with an ImportError or an AttributeError",
        mend="pip install --upgrade whet" if broken else "",
    )


def _of_others(version: Version, wanted: Mapping[str, list[str]]) -> Finding:
    """What other programs require of the libraries that whet uses, too."""
    ours = {canonicalize_name(requirement.name) for requirement in _read(wanted.get("whet", []))}
    broken = [
        (words, owner)
        for owner, lines in sorted(wanted.items())
        if canonicalize_name(owner) != "whet"
        for words, name in _broken(owner, lines, version)
        if name in ours
    ]
    owners = list(dict.fromkeys(owner for _, owner in broken))
    more = f" and {len(broken) - _FEW} more" if len(broken) > _FEW else ""
    return Finding(
        check="versions beside each other",
        state="note" if broken else "good",
        found="; ".join(words for words, _ in broken[:_FEW]) + more if broken else "nothing installed asks for others",
        why="two programs that want two versions of one library cannot both work in one environment",
        mend=f"give {', '.join(owners)} an environment of its own (python -m venv)" if broken else "",
    )


def _known(version: Version) -> Iterator[Finding]:
    """One finding for each known clash that is here."""
    for clash in CLASHES:
        found, beside = version(clash.name), version(clash.beside) if clash.beside else None
        is_here = found is not None and found in SpecifierSet(clash.versions, prereleases=True)
        if clash.beside:
            is_here = is_here and beside is not None and beside in SpecifierSet(clash.beside_versions, prereleases=True)
        if is_here:
            pair = f" beside {clash.beside} {beside}" if clash.beside else ""
            yield Finding(
                check="known clash", state="fault", found=f"{clash.name} {found}{pair}", why=clash.why, mend=clash.mend
            )


def _broken(owner: str, lines: Iterable[str], version: Version) -> Iterator[tuple[str, str]]:
    """Requirements of `owner` that are not met, in words and by name; those of its extras are left out."""
    for requirement in _read(lines):
        name = canonicalize_name(requirement.name)
        found = version(name)
        if found is None:
            yield f"{owner} needs {requirement.name}, which is not installed", name
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{owner} needs {requirement.name}{requirement.specifier}, {found} is installed", name


def _read(lines: Iterable[str]) -> Iterator[Requirement]:
    """Requirements that hold here; old packages hold lines that nobody can read."""
    for line in lines:
        with suppress(InvalidRequirement):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield requirement
