"""How the findings of the fault suite become one table."""

from __future__ import annotations

import pytest
from fault_table import GROUPS, Finding, as_document, as_lines, merged


def test_tests_of_the_same_fault_share_a_line_in_the_order_of_the_groups():
    found = merged(
        [
            Finding(fault="full disk", group="storage", tries=2, held=2, note="said so"),
            Finding(fault="SIGKILL", group="kill", tries=50, held=49, lost="one step"),
            Finding(fault="full disk", group="storage", tries=3, held=3, note="said so", peer="torn file"),
            Finding(fault="SIGKILL", group="kill", tries=0, held=0, peer="no fallback"),
        ]
    )
    assert found == [
        Finding(fault="SIGKILL", group="kill", tries=50, held=49, lost="one step", peer="no fallback"),
        Finding(fault="full disk", group="storage", tries=5, held=5, note="said so", peer="torn file"),
    ]


def test_the_document_has_the_sums_and_the_tests_that_failed():
    document = as_document([Finding(fault="SIGKILL", group="kill", tries=4, held=3)], ["b", "a"])
    assert (document["tries"], document["held"], document["failed_tests"]) == (4, 3, ["a", "b"])
    assert [group["title"] for group in document["groups"]] == [GROUPS["kill"]]
    assert as_lines([Finding(fault="SIGKILL", group="kill", tries=4, held=3)])[1].split() == ["3", "of", "4", "SIGKILL"]


def test_a_line_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no group of faults"):
        Finding(fault="SIGKILL", group="kills", tries=1, held=1)
    with pytest.raises(ValueError, match="cannot have held"):
        Finding(fault="SIGKILL", group="kill", tries=1, held=2)
