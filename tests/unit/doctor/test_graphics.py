from dataclasses import replace

import pytest

from whet.doctor.graphics import Card, Graphics, check_graphics, look_at_graphics

H200 = Card(name="NVIDIA H200", total_bytes=150 * 10**9, free_bytes=149 * 10**9, capability=(9, 0), reaches=(1,))
TWO = Graphics(
    torch_version="2.13.0+cu130", cuda="13.0", driver="580.95.05", visible=None, nccl="2.28.9",
    cards=(H200, replace(H200, reaches=(0,))), supported=("sm_80", "sm_90"),
)  # fmt: skip


def findings(graphics: Graphics):
    return {finding.check: finding for finding in check_graphics(graphics)}


def test_two_cards_that_reach_each_other_are_good():
    found = findings(TWO)
    assert {each.state for each in found.values()} == {"good"}
    assert found["GPU 0"].found == "NVIDIA H200, 149.0 of 150.0 GB free, compute capability 9.0"
    assert found["topology"].found == "2 GPUs reach each other's memory" and found["NCCL"].found == "2.28.9"


def test_a_machine_without_gpus_is_good_and_has_no_words_about_nccl():
    found = findings(Graphics(torch_version="2.13.0+cpu", cuda=None, driver=None, visible=None))
    assert {each.state for each in found.values()} == {"good"} and set(found) == {"torch", "GPU driver"}


@pytest.mark.parametrize(
    ("changes", "check", "state", "words"),
    [
        ({"cuda": None, "cards": ()}, "torch", "fault", "although there is an NVIDIA driver (580.95.05)"),
        ({"cards": (), "complaint": "driver too old"}, "GPU driver", "fault", "torch finds no GPU: driver too old"),
        ({"cards": (), "visible": ""}, "GPU driver", "note", "CUDA_VISIBLE_DEVICES="),
        ({"driver": None, "cards": ()}, "GPU driver", "note", "everything runs on the CPU"),
        ({"supported": ("sm_50", "sm_80")}, "GPU 0", "fault", "NVIDIA H200"),
        ({"cards": (replace(H200, free_bytes=10**9),)}, "GPU 0", "note", "1.0 of 150.0 GB free"),
        ({"cards": (replace(H200, reaches=()), H200)}, "topology", "note", "not directly: 0 to 1"),
        ({"cards": (H200, replace(H200, name="A100", reaches=(0,)))}, "topology", "note", "they are not alike"),
        ({"nccl": None}, "NCCL", "fault", "this torch has none"),
    ],
)
def test_what_is_wrong_with_gpus_is_told_with_a_mend(changes, check, state, words):
    found = findings(replace(TWO, **changes))[check]
    assert found.state == state and words in found.found and found.mend, found


def test_the_driver_is_read_from_the_kernel_s_file(tmp_path):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\n")
    assert look_at_graphics(version).driver == "580.95.05"
    assert look_at_graphics(tmp_path / "none").driver is None
