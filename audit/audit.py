"""What can be checked about security without running whet: `make audit`. Exit code 1 when something was found.

Each check says `ok`, what it found, or `not checked` with the reason: a check that could not be made is no good news.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from secret_scan import find_secrets

ROOT = Path(__file__).resolve().parents[1]
_ADVISORY_SECONDS = 300
_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|Max retries exceeded|Name or service not known|Temporary failure in name|"
    r"ServiceError|HTTPError|ProxyError|JSONDecodeError|timed out",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check says; `is_checked` False: it could not be made."""

    findings: Sequence[str] = ()
    is_checked: bool = True
    note: str = ""


def lint() -> Result:
    """ruff's security rules over everything that is installed or run; tests are not: they build attacks. An assert
    guards what whet itself promises, so S101 is no finding."""
    folders = ["src", "audit", "docs", "train.py", "merge_adapter.py", "inference.py", "train_fiqa_peft.py"]
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "S",
        "--ignore",
        "S101",
        "--output-format",
        "concise",
        *folders,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        return Result(is_checked=False, note=(done.stderr.strip().splitlines() or ["ruff did not start"])[-1])
    return Result(findings=[line for line in done.stdout.splitlines() if re.match(r"\S+:\d+:\d+: ", line)])


def secrets() -> Result:
    """Tokens and private keys in files that git knows."""
    if shutil.which("git") is None:
        return Result(is_checked=False, note="git is not installed, which tells what files there are")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if names.returncode != 0:
        return Result(is_checked=False, note="this is no git checkout")
    paths = [ROOT / name for name in names.stdout.decode().split("\0") if name]
    return Result(findings=find_secrets([path for path in paths if path.is_file()], ROOT), note=f"{len(paths)} files")


def containers() -> Result:
    """Every image runs as somebody else than root unless it is built otherwise on purpose."""
    findings = []
    files = sorted((ROOT / "docker").glob("Dockerfile*"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
        users = [arguments.get(user.strip("${}"), user) for user in re.findall(r"^USER (\S+)", text, re.MULTILINE)]
        if not users or users[-1].partition(":")[0] in ("0", "root"):
            findings.append(f"{path.relative_to(ROOT)}: runs as root")
        if re.search(r"^ADD https?://|curl [^\n]*\| *(ba)?sh|--trusted-host", text, re.MULTILINE):
            findings.append(f"{path.relative_to(ROOT)}: fetches what nothing verifies")
    return Result(findings=findings, note=f"{len(files)} files")


def pins() -> Result:
    """constraints.txt names one version of each package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line.strip() and not line.startswith("#")]
    loose = [line for line in named if not re.fullmatch(r"[\w.-]+==[\w.+!-]+( *;.*)?", line)]
    return Result(findings=[f"constraints.txt: {line} is not one version" for line in loose], note=f"{len(named)} pins")


def advisories() -> Result:
    """Known vulnerabilities of the installed packages, by pip-audit, which asks the package index."""
    if find_spec("pip_audit") is None:
        return Result(is_checked=False, note="pip-audit is not installed (pip install 'whet[dev]')")
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_ADVISORY_SECONDS)
    except subprocess.TimeoutExpired:
        return Result(is_checked=False, note=f"no answer within {_ADVISORY_SECONDS} s")
    return read_advisories(done.stdout, done.stderr)


def read_advisories(output: str, errors: str) -> Result:
    """What pip-audit's JSON says; its exit status is the same for a vulnerability and for a lost network."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        last = (errors.strip().splitlines() or ["no word"])[-1][:200]
        where = "the database of advisories cannot be reached from here" if _UNREACHABLE.search(errors) else last
        return Result(is_checked=False, note=where)
    findings = [
        f"{package['name']} {package['version']}: {advisory['id']}, fixed in "
        f"{', '.join(advisory.get('fix_versions') or []) or 'no version yet'}"
        for package in packages
        for advisory in package.get("vulns", ())
    ]
    # a package that the index does not know is in the list, with the reason and without an answer
    num_answered = sum("skip_reason" not in package for package in packages)
    note = f"the index answered for {num_answered} of {len(packages)} packages"
    return Result(findings=findings, is_checked=num_answered > 0, note=note)


CHECKS: dict[str, Callable[[], Result]] = {
    "security rules of ruff": lint,
    "secrets in the tree": secrets,
    "container files": containers,
    "exact versions": pins,
    "advisories (pip-audit)": advisories,
}


def main() -> int:
    """Run every check, print what it says; 1 when one has found something."""
    num_found = 0
    for name, check in CHECKS.items():
        result = check()
        num_found += len(result.findings)
        state = "not checked" if not result.is_checked else f"{len(result.findings)} found" if result.findings else "ok"
        print(f"{name}: {state}" + (f" ({result.note})" if result.note else ""))
        for finding in result.findings:
            print(f"  {finding}")
    return 1 if num_found else 0


if __name__ == "__main__":
    sys.exit(main())
