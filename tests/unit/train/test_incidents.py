"""What a run mended by itself is kept line by line, whatever a crash left."""

from __future__ import annotations

import json
import math
from pathlib import Path

from whet.train.incidents import FILE_NAME, Incident, append_incident, read_incidents, sentences

FIRST = Incident(step=3, kind="out_of_memory", text="step 3: ...", facts={"num_parts": 2, "ranks": [1]})
SECOND = Incident(step=9, kind="spike", text="step 9: ...")


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    assert read_incidents(tmp_path) == []
    append_incident(tmp_path, FIRST)
    append_incident(tmp_path, SECOND)
    assert read_incidents(tmp_path) == [FIRST, SECOND]


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    append_incident(tmp_path, FIRST)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes() + b'{"step": 4, "kind": "ou')
    append_incident(tmp_path, SECOND)
    assert read_incidents(tmp_path) == [FIRST, SECOND]


def test_lines_that_are_no_incidents_are_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b'[]\n{"kind": "x"}\n{"step": "3"}\n\xff\n{"step": 3, "facts": 7}\n')
    assert read_incidents(tmp_path) == [Incident(step=3, kind="", text="")]


def test_numbers_that_are_not_finite_are_kept_by_name(tmp_path: Path) -> None:
    append_incident(tmp_path, Incident(step=1, kind="spike", text="", facts={"loss": math.nan, "of": [math.inf, 1.5]}))
    (line,) = (tmp_path / FILE_NAME).read_text().splitlines()
    assert json.loads(line)["facts"] == {"loss": "nan", "of": ["inf", 1.5]}


def test_the_summary_counts_each_kind() -> None:
    assert sentences([FIRST, SECOND, FIRST]) == [
        "2 times out of memory, passes were cut smaller (incidents.jsonl)",
        "1 incident: spike (incidents.jsonl)",
    ]
    assert sentences([]) == []
