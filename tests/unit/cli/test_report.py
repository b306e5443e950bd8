"""`whet report` prints where the report lies."""

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
