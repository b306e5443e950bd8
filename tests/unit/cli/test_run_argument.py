"""A folder that is no run is refused with what would do."""

from __future__ import annotations

import pytest

from whet.cli.run_argument import check_run
from whet.errors import StorageError


def test_a_run_is_taken_as_it_was_typed_and_a_slip_answered_with_the_nearest(tmp_path):
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"no recipe\.yaml lies in it\n  mend: whet runs list"):
        check_run(run)
    (run / "recipe.yaml").write_text("name: a\n")
    (run / "summary.json").write_text("{}")
    assert check_run(run) == run
    with pytest.raises(StorageError, match=r"no such folder\n  mend: did you mean .*demo\?"):
        check_run(tmp_path / "runs" / "dmeo")
    with pytest.raises(StorageError, match=r"below it are .*demo"):
        check_run(tmp_path / "runs")
    with pytest.raises(StorageError, match="whet runs list"):
        check_run(tmp_path / "nowhere" / "demo")
