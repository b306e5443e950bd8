"""A loopback server plays the hub; each case runs in its own process because the endpoint is read at import."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from loopback_hub import COMMIT, LoopbackHub, serving

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="needs whet[data]")

ANSWERS = {
    "gone": (404, "RepoNotFound"),
    "closed": (403, "GatedRepo"),
    "revision": (404, "RevisionNotFound"),
    "forbidden": (403, None),
    "broken": (500, None),
}

PROGRAM = """
import json, sys
from whet.data.hub import open_hub_split
from whet.errors import WhetError
for name in sys.argv[1:]:
    try:
        split = "test" if name.endswith("split") else "train"
        revision = "v1" if "revision" in name else None
        opened = open_hub_split(
            name.removesuffix("-split").removesuffix("-stream"), split=split, config=None, revision=revision,
            stream=name.endswith("stream"),
        )
        assert list(opened.read()) == list(opened.read())
        rows = [[row.origin, row.value] for row in opened.read()]
        print(json.dumps([name, opened.commit, opened.version, opened.num_rows, *rows]))
    except WhetError as error:
        print(json.dumps([name, type(error).__name__, error.exit_code, str(error)]))
"""


class _Hub(LoopbackHub):
    """An open dataset, and some that refuse."""

    def do_GET(self):
        if "owner/open" in self.path:
            super().do_GET()
            return
        name = next(name for name in ANSWERS if f"owner/{name}" in self.path)
        status, code = ANSWERS[name]
        self.send(status, b"", {"X-Error-Code": code} if code else None)


def _run(names, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.fixture
def endpoint():
    with serving(_Hub) as address:
        yield address


@pytest.mark.slow
def test_rows_come_from_one_commit_and_again_without_a_network(endpoint, tmp_path):
    expected = [
        ["owner/open[train]:row 1", {"question": "2+2?", "answer": "4"}],
        ["owner/open[train]:row 2", {"question": "3+3?", "answer": "6"}],
    ]
    told = _run(["owner/open", "owner/open-split"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    assert told["owner/open"] == [COMMIT, COMMIT, 2, *expected]
    assert told["owner/open-split"][:2] == ["RecipeError", 2]
    assert "test" in told["owner/open-split"][2]
    offline = _run(["owner/open"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert offline["owner/open"][:1] == [None] and offline["owner/open"][2:] == [2, *expected]
    assert re.fullmatch("[0-9a-f]{64}", offline["owner/open"][1])
    assert "cannot be streamed" in _run(
        ["owner/open-stream"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"
    )["owner/open-stream"][2]  # fmt: skip


@pytest.mark.slow
def test_a_stream_gives_the_same_rows_of_the_same_commit_and_leaves_no_copy(endpoint, tmp_path):
    told = _run(["owner/open-stream", "owner/open"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "b"))
    assert told["owner/open-stream"][:3] == [COMMIT, COMMIT, None]
    assert told["owner/open-stream"][3:] == told["owner/open"][3:]
    _run(["owner/open-stream"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "a"))
    assert not list((tmp_path / "a").rglob("*.arrow")) and list((tmp_path / "b").rglob("*.arrow"))


@pytest.mark.slow
def test_each_refusal_of_the_hub_is_told_apart_and_no_token_is_printed(endpoint, tmp_path):
    told = _run(
        [f"owner/{name}" for name in ANSWERS], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_TOKEN="hf_CANARY"
    )
    assert {name: (kind, code) for name, (kind, code, _) in told.items()} == {
        f"owner/{name}": ("HubUnreachableError" if name == "broken" else "HubError", 6) for name in ANSWERS
    }
    assert "no dataset owner/gone" in told["owner/gone"][2]
    assert "gated" in told["owner/closed"][2]
    assert "no revision 'v1'" in told["owner/revision"][2]
    assert "HTTP 403" in told["owner/forbidden"][2] and "token" in told["owner/forbidden"][2]
    assert "HTTP 500" in told["owner/broken"][2]
    assert "CANARY" not in json.dumps(told)


@pytest.mark.slow
def test_an_unreachable_hub_and_an_impossible_name_are_told(tmp_path):
    told = _run(["owner/any", "owner/a b"], HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert "could not be reached" in told["owner/any"][2]
    assert told["owner/a b"][:2] == ["RecipeError", 2]


@pytest.mark.slow
def test_offline_without_a_copy_is_a_hub_error(tmp_path):
    told = _run(["owner/any"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert told["owner/any"][:2] == ["HubError", 6]


class _Damaging(LoopbackHub):
    """Changes a byte of the rows the first time."""

    num_sent = 0

    def send_body(self, body):
        if body == self.rows and not _Damaging.num_sent:
            _Damaging.num_sent += 1
            body = body.replace(b"2+2", b"2+3")
        super().send_body(body)


@pytest.mark.slow
def test_a_damaged_file_is_refused_and_fetched_anew(tmp_path):
    _Damaging.num_sent = 0
    with serving(_Damaging) as address:
        refused, told = (
            _run(["owner/open"], HF_ENDPOINT=address, HF_HOME=str(tmp_path))["owner/open"] for _ in range(2)
        )
    assert refused[:2] == ["HubError", 6] and "train.jsonl of owner/open is damaged" in refused[2]
    assert told[3][1] == {"question": "2+2?", "answer": "4"}


@pytest.mark.parametrize(
    ("version", "is_refused"), [("3.6.0", True), ("2.14.5", True), ("4.0.0", False), ("5.2", False)]
)
def test_a_library_that_can_run_a_dataset_s_own_code_is_refused(version, is_refused):
    from whet.data import hub
    from whet.errors import RecipeError

    if not is_refused:
        hub._refuse_loading_scripts(version)
        return
    with pytest.raises(RecipeError, match="can run code that comes with a dataset"):
        hub._refuse_loading_scripts(version)
