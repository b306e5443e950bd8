import json

import pytest
from typer.testing import CliRunner

from whet.cli import verbs
from whet.cli.main import app
from whet.errors import RecipeError

runner = CliRunner()


@pytest.fixture(scope="module", autouse=True)
def _verbs():
    if not app.registered_commands:
        verbs.register(app)


def test_the_guides_variables_are_explained_in_words_and_as_json(monkeypatch):
    monkeypatch.setattr("whet.doctor.readers.libraries", list)  # half a gigabyte
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth77")
    monkeypatch.setenv("NCCL_TIMEOUT", "1800")
    said = runner.invoke(app, ["doctor", "--dist"])
    assert said.exit_code == 1, said.output
    assert "FAULT NCCL_SOCKET_IFNAME: eth77, which names no interface of this machine" in said.output
    assert "note  NCCL_TIMEOUT: NCCL_TIMEOUT=1800, which neither torch nor NCCL reads here" in said.output
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    as_json = runner.invoke(app, ["doctor", "--dist", "--json"])
    assert as_json.exit_code == 0, as_json.output
    found = {finding["check"]: finding["state"] for finding in json.loads(as_json.output)["findings"]}
    assert found["NCCL_TIMEOUT"] == "note" and found["timeouts"] == "good"


def test_without_options_this_machine_is_looked_at_and_the_last_line_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said = runner.invoke(app, ["doctor"])
    assert said.exit_code == 0, said.output
    for check in ("Python", "libraries", "torch", "GPU driver", "processor", "threads", "memory", "disk", "hub token"):
        assert f" {check}: " in said.output, check
    assert "0 faults" in said.output and "next: whet init" in said.output
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    as_json = runner.invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == 1
    found = {finding["check"]: finding for finding in json.loads(as_json.output)["findings"]}
    assert found["threads"]["state"] == "fault" and found["threads"]["mend"] == "unset OMP_NUM_THREADS"
    assert all(finding["why"] for finding in found.values())


def test_a_smoke_test_that_is_asked_for_alone_is_refused_with_the_command_to_type():
    outcome = runner.invoke(app, ["doctor", "--nproc", "2"])
    assert isinstance(outcome.exception, RecipeError) and outcome.exception.mend == "whet doctor --dist --nproc 2"


@pytest.mark.slow
def test_two_ranks_of_this_machine_meet_and_are_timed(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    said = runner.invoke(app, ["doctor", "--dist", "--nproc", "2"])
    assert said.exit_code == 0, said.output
    assert "ok    smoke test: cpu: all-reduce over 2 ranks: " in said.output and "GB/s sent by each rank" in said.output
