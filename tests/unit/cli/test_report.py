"""`whet report` prints where the report lies."""

import json
from pathlib import Path

import pytest

from whet.cli.report import report
from whet.errors import StorageError


def test_the_path_is_printed_and_the_file_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    report(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a run folder"):
        report(tmp_path)


def test_a_program_is_told_where_it_lies_and_how_large_it_is(tmp_path: Path, call) -> None:
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    code, out, said = call("report", str(tmp_path), "--json")
    file = tmp_path / "report.html"
    assert code == 0 and said == f"report: {file}\n"
    assert json.loads(out) == {"report": str(file), "num_bytes": file.stat().st_size}
    _, out, _ = call("report", str(tmp_path), "--json", "--markdown")
    _, plain, _ = call("report", str(tmp_path), "--markdown")
    assert json.loads(out) == {"markdown": plain}
