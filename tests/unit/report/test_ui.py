"""`whet ui`: who is answered, what is answered, and that nothing outside run folders can be reached."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from whet.errors import StorageError
from whet.report.ui import Server, pages

HOSTILE = "<script>alert(1)</script>\u202e\x1b]0;x\x07"


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a server of this process, without its last slash."""
    with Server(root, port=0, is_held=lambda _run: False) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server.url.rstrip("/")
        finally:
            server.stop()
            thread.join()


@pytest.fixture
def base(make_run, tmp_path):
    """The address of a server over two runs."""
    first = make_run()
    shutil.copytree(first, tmp_path / "second")
    with serving(tmp_path) as url:
        yield url


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.putrequest(method, f"{parts.path}?{parts.query}", skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def document(url: str):
    status, headers, body = ask(url)
    assert status == 200 and headers["content-type"] == "application/json", body
    return json.loads(body)


def test_the_list_names_the_runs_and_each_has_curves_overview_samples_and_report(base):
    runs = {run["name"]: run["id"] for run in document(f"{base}/api/runs")["runs"]}
    assert set(runs) == {"demo-run", "second"}
    id = runs["demo-run"]
    points = document(f"{base}/api/points/{id}")
    assert points["steps"] == list(range(1, 51)) and len(points["columns"]["loss"]) == 50 and points["evals"]
    again = document(f"{base}/api/points/{id}?at={points['at']}")
    assert again["steps"] == [] and not again["is_anew"]
    overview = document(f"{base}/api/run/{id}")
    assert (
        overview["evaluations"][0]["verdict"] == "better" and overview["ledger"]["rows"] and overview["incidents"] == []
    )
    samples = document(f"{base}/api/samples/{id}")
    assert [answer["name"] for answer in samples["after"][0]["rows"][0]["answers"]] == ["base", "tuned"]
    status, headers, page = ask(f"{base}/report/{id}")
    assert status == 200 and b"whet run report" in page and "script-src" not in headers["content-security-policy"]


def test_the_comparison_shows_what_differs_among_all_of_them(base, tmp_path):
    third = tmp_path / "third"
    shutil.copytree(tmp_path / "second", third)
    (third / "recipe.yaml").write_text((third / "recipe.yaml").read_text() + "seed: 7\n")
    runs = sorted(document(f"{base}/api/runs")["runs"], key=lambda run: run["name"])
    while len(runs) < 3:  # the list is looked for every other second
        runs = sorted(document(f"{base}/api/runs")["runs"], key=lambda run: run["name"])
    found = document(f"{base}/api/diff?runs={','.join(run['id'] for run in runs)}")
    assert found["runs"] == ["demo-run", "second", "third"]
    assert found["differences"] == [["recipe", "seed", 42, 42, 7]]
    assert ["sums.verdict", "better", "better", "better"] in found["results"]


def test_the_page_and_its_files_come_with_a_policy_that_lets_nothing_else_in(base):
    for name in pages._FILES:
        status, headers, _ = ask(f"{base}/{name}")
        assert status == 200, name
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "trusted-types 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    index = ask(f"{base}/")[2]
    assert (
        b"http:" not in index
        and b"https:" not in index
        and b"<style" not in index
        and b"onload" not in index
        and index.count(b"<script") == 2
    )


def test_the_scripts_read_no_text_as_html():
    for path in pages._STATIC.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http:",
            "https:",
        ):
            assert way not in source, f"{path.name} has {way}"


def test_hostile_names_and_answers_stay_text(make_run, tmp_path):
    run = make_run(HOSTILE)
    run.rename(tmp_path / "<img src=x onerror=alert(1)>\u202e")
    with serving(tmp_path) as url:
        (line,) = document(f"{url}/api/runs")["runs"]
        assert line["name"] == "<img src=x onerror=alert(1)><U+202E>" and line["id"].isalnum()
        for name in ("api/points", "api/run", "api/samples"):
            status, headers, body = ask(f"{url}/{name}/{line['id']}")
            assert status == 200 and headers["content-type"] == "application/json" and body.isascii()
            assert b"\\u202e" not in body and b"\\u001b" not in body
        page = ask(f"{url}/report/{line['id']}")[2]
        assert b"<script>" not in page and b"<img" not in page


@pytest.mark.parametrize(
    "path",
    [
        "", "x/", "{word}", "{word}x/", "{word}/../../etc/passwd", "{word}/..%2f..%2fetc/passwd", "{word}/api/run/..",
        "{word}/api/run/%2e%2e", "{word}/api/run/demo-run", "{word}/report//etc/passwd", "{word}/uplot/../server.py",
        "{word}/static/app.js", "{word}/api/points/0123456789abcdef", "{word}/api/run/", "{word}/app.js/",
    ],
)  # fmt: skip
def test_an_address_that_is_not_in_the_table_is_not_found(base, path):
    root, _, word = base.rpartition("/")
    status, headers, body = ask(f"{root}/{path.format(word=word)}")
    assert status == 404 and set(json.loads(body)) == {"error"} and b"root:" not in body
    assert headers["content-security-policy"].startswith("default-src 'none'") and word.encode() not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_another_host_name_is_refused(base, host):
    assert ask(f"{base}/api/runs", Host=host.format(port=urlsplit(base).port))[0] == 403


def test_two_hosts_and_a_foreign_origin_are_refused(base):
    parts = urlsplit(base)
    assert ask(f"{base}/api/runs", Origin="http://evil.example")[0] == 403
    assert ask(f"{base}/api/runs", Host=f"localhost:{parts.port}", Origin=f"http://localhost:{parts.port}")[0] == 200
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as raw:
        raw.sendall(f"GET {parts.path}/ HTTP/1.1\r\nHost: {parts.netloc}\r\nHost: evil.example\r\n\r\n".encode())
        assert b" 403 " in raw.recv(100)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW"])
def test_nothing_but_get_is_answered(base, method):
    status, headers, _ = ask(f"{base}/api/runs", method)
    assert status == 405 and headers["allow"] == "GET" and "access-control-allow-origin" not in headers


def test_a_request_that_does_not_end_or_is_none_harms_nobody(base):
    parts = urlsplit(base)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as waiting:
        waiting.sendall(b"GET /")
        with socket.create_connection((parts.hostname, parts.port), timeout=60) as raw:
            raw.sendall(b"\x16\x03\x01 no request\r\n\r\n")
            raw.recv(100)
        assert ask(f"{base}/api/runs")[0] == 200


def test_it_listens_to_this_machine_alone_and_says_when_a_port_is_taken(tmp_path):
    with Server(tmp_path, port=0, is_held=lambda _run: False) as server:
        assert server._http.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(StorageError, match="cannot be listened to"):
            Server(tmp_path, port=urlsplit(server.url).port, is_held=lambda _run: False)


def test_links_below_the_folder_are_not_followed(make_run, tmp_path):
    run = make_run()
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    shutil.copytree(run, secret)
    (secret / "summary.json").write_text('{"status": "TOP SECRET"}')
    root = tmp_path / "root"
    shutil.copytree(run, root / "run")
    (root / "linked").symlink_to(secret)
    for name in ("summary.json", "recipe.yaml", "metrics.jsonl", "samples.jsonl", "ledger.json"):
        (root / "run" / name).unlink(missing_ok=True)
        (root / "run" / name).symlink_to(secret / name)
    shutil.rmtree(root / "run" / "evaluations")
    (root / "run" / "evaluations").symlink_to(secret / "evaluations")
    (root / "run" / "recipe.yaml").unlink()
    (root / "run" / "recipe.yaml").write_text("name: a\n")
    with serving(root) as url:
        (line,) = document(f"{url}/api/runs")["runs"]
        assert line["name"] == "run" and line["verdict"] is None and line["last_loss"] is None
        overview = document(f"{url}/api/run/{line['id']}")
        assert "TOP SECRET" not in json.dumps(overview) and overview["evaluations"] == []
        assert any("symbolic link" in problem for problem in overview["problems"])
        assert document(f"{url}/api/points/{line['id']}")["steps"] == []


def test_the_library_is_the_one_its_manifest_names_with_its_licence():
    folder = pages._STATIC / "uplot"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["sha256"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert f"(v{manifest['version']})" in (folder / "uPlot.iife.min.js").read_text(encoding="utf-8")[:80]
    assert "The MIT License" in (folder / "LICENSE").read_text(encoding="utf-8")
