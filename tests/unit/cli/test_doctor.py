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


def test_without_a_subject_it_says_which_there_is():
    outcome = runner.invoke(app, ["doctor"])
    assert (
        isinstance(outcome.exception, RecipeError) and outcome.exception.mend == "whet doctor --dist, or --math RECIPE"
    )


@pytest.mark.slow
def test_two_ranks_of_this_machine_meet_and_are_timed(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    said = runner.invoke(app, ["doctor", "--dist", "--nproc", "2"])
    assert said.exit_code == 0, said.output
    assert "ok    smoke test: cpu: all-reduce over 2 ranks: " in said.output and "GB/s sent by each rank" in said.output
