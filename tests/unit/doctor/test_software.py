from importlib import metadata

import pytest

from whet.doctor.software import CLASHES, check_python, check_software

OURS = {"whet": ["torch>=2.11", "transformers>=5.17", "pyarrow>=19 ; extra == 'data'"]}


def findings(versions: dict[str, str], wanted: dict[str, list[str]]):
    return {finding.check: finding for finding in check_software(versions.get, wanted)}


def test_what_is_installed_here_meets_what_whet_asks_for():
    found = {finding.check: finding for finding in check_software()}
    assert found["Python"].state == found["libraries"].state == "good"
    assert f"torch {metadata.version('torch')}" in found["libraries"].found


def test_a_library_that_is_too_old_or_missing_is_a_fault_and_that_of_an_extra_is_not():
    found = findings({"torch": "2.4.0"}, OURS)["libraries"]
    assert found.state == "fault"
    assert "whet needs torch>=2.11, 2.4.0 is installed" in found.found
    assert "whet needs transformers, which is not installed" in found.found and "pyarrow" not in found.found


def test_a_program_that_pins_a_library_of_whet_is_a_note_and_its_other_wishes_are_not_told():
    wanted = OURS | {"axolotl": ["transformers==5.20.1", "colorama<1", "not a requirement!"]}
    found = findings({"torch": "2.13.0+cpu", "transformers": "5.23.0"}, wanted)["versions beside each other"]
    assert found.state == "note"
    assert found.found == "axolotl needs transformers==5.20.1, 5.23.0 is installed"
    assert found.mend == "give axolotl an environment of its own (python -m venv)"


def test_builds_and_pre_releases_count_as_the_version_that_they_are():
    versions = {"torch": "2.13.0+cu130", "transformers": "6.0.0.dev0"}
    assert findings(versions, OURS)["libraries"].state == "good"


@pytest.mark.parametrize(
    ("versions", "is_clash"),
    [
        ({"nemo-run": "0.11.1", "leptonai": "0.28.0"}, True),
        ({"nemo-run": "0.11.1", "leptonai": "0.27.3"}, False),
        ({"leptonai": "0.28.0"}, False),
        ({"nemo-automodel": "0.7.0", "triton": "3.7.1"}, True),
        ({"nemo-automodel": "0.7.0", "triton": "3.6.0"}, False),
        ({"datasets": "3.6.0"}, True),
        ({"datasets": "5.2.0"}, False),
    ],
)
def test_clashes_that_no_package_admits_are_known(versions, is_clash):
    found = findings(versions, {"whet": []})
    assert ("known clash" in found) == is_clash
    assert not is_clash or found["known clash"].mend in [clash.mend for clash in CLASHES]


def test_a_python_that_is_too_old_is_a_fault():
    assert check_python((3, 10, 14)).state == "fault" and check_python((3, 11, 0)).state == "good"
