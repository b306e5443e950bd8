"""make audit finds what it is for, says what it could not look at, and finds nothing in this tree."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit():
    sys.path.insert(0, str(ROOT / "audit"))
    try:
        import audit as checks
        import secret_scan
    finally:
        sys.path.remove(str(ROOT / "audit"))
    yield checks, secret_scan
    for name in ("audit", "secret_scan"):
        del sys.modules[name]


# put together here, so that they do not stand in this file
PLANTED = {
    "Hugging Face token": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh",
    "AWS access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "ghp_" + "a1B2c3D4e5F6a1B2c3D4e5F6a1B2c3D4e5F6",
    "OpenAI-style key": "sk-" + "proj-abcdefghijklmnopqrstuvwxyz0123456789",
    "Weights & Biases key": "WANDB_API_" + "KEY=" + "0123456789abcdef" * 2 + "01234567",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "password in an address": "https://ada:correct-" + "horse-battery@hub.example.com/x",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_secret_is_found_with_its_line_and_never_shown(audit, tmp_path, kind):
    (tmp_path / "notes.md").write_text(f"one\ntwo {PLANTED[kind]}\n")
    found = audit[1].find_secrets([tmp_path / "notes.md"], tmp_path)
    assert found == [f"notes.md:2: {kind}"]


def test_examples_and_words_are_no_secrets(audit, tmp_path):
    (tmp_path / "a").write_text("hf_CANARYcanary HF_TOKEN=hf_... sk-learn https://user:pw@127.0.0.1 user:secret@host\n")
    assert audit[1].find_secrets([tmp_path / "a"], tmp_path) == []


@pytest.mark.parametrize("name", ["security rules of ruff", "secrets in the tree", "container files", "exact versions"])
def test_this_tree_passes(audit, name):
    result = audit[0].CHECKS[name]()
    assert not result.findings
    if not result.is_checked:
        assert any(reason in result.note for reason in ("no git checkout", "git is not installed", "ruff"))


def test_without_git_the_search_for_secrets_says_that_it_was_not_made(audit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = audit[0].secrets()
    assert not result.is_checked and "git is not installed" in result.note


def test_a_container_that_runs_as_root_is_found(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(audit[0], "ROOT", tmp_path)
    (tmp_path / "docker").mkdir()
    for name, text in {
        "a": "FROM x\n",
        "b": "FROM x\nARG U=1000\nUSER ${U}\n",
        "c": "FROM x\nUSER 1\nUSER root\n",
    }.items():
        (tmp_path / "docker" / f"Dockerfile.{name}").write_text(text)
    assert audit[0].containers().findings == ["docker/Dockerfile.a: runs as root", "docker/Dockerfile.c: runs as root"]


def test_a_known_vulnerability_is_told_apart_from_a_lost_network(audit):
    advisory = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    packages = [{"name": "a", "version": "1.0", "vulns": [advisory]}, {"name": "b", "version": "1", "vulns": []}]
    found = audit[0].read_advisories(json.dumps({"dependencies": packages}), "")
    assert found.findings == ["a 1.0: PYSEC-1, fixed in 2.0"] and found.is_checked
    unknown = audit[0].read_advisories(json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]}), "")
    assert not unknown.is_checked and unknown.note == "the index answered for 0 of 1 packages"
    lost = audit[0].read_advisories("", "requests.exceptions.ConnectionError: Max retries exceeded with url")
    assert not lost.is_checked and "cannot be reached" in lost.note
    assert audit[0].read_advisories("", "something else").note == "something else"
