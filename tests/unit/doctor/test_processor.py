from dataclasses import replace

import pytest

from whet.doctor.processor import Processor, check_processor, look_at_processor

GOOD = Processor(
    name="Xeon", num_logical=8, num_cores=4, instructions=frozenset({"amx_bf16", "avx512_bf16", "avx512f"}),
    free_bytes=30_000_000_000, load=0.2, has_compiler=True,
)  # fmt: skip


def findings(processor: Processor, **variables: str):
    return {finding.check: finding for finding in check_processor(processor, variables)}


def test_a_calm_processor_with_fast_bfloat16_is_good_in_everything():
    found = findings(GOOD)
    assert {each.state for each in found.values()} == {"good"}
    assert found["processor"].found == "Xeon, AMX and AVX512-BF16: products in bfloat16"
    assert found["threads"].found == "4 cores of 8 logical ones may be used; OMP_NUM_THREADS is not set: whet takes 4"


def test_instructions_are_those_of_the_kernel_s_list_and_missing_ones_are_a_note(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name : Old\nflags : fpu avx2 avx512_bf16x\nflags : amx_bf16\n")
    old = look_at_processor(tmp_path)
    assert old.instructions == {"fpu", "avx2", "avx512_bf16x"}
    found = findings(replace(old, load=0.0))["processor"]
    assert found.state == "note" and found.found == "Old, AVX2, but neither AMX nor AVX512-BF16: float32"


@pytest.mark.parametrize(
    ("setting", "state", "mend"),
    [
        ("4", "good", ""),
        ("8", "note", "unset OMP_NUM_THREADS, or export OMP_NUM_THREADS=4"),
        ("1", "note", "unset OMP_NUM_THREADS, or export OMP_NUM_THREADS=4"),
        ("many", "fault", "unset OMP_NUM_THREADS"),
        ("0", "fault", "unset OMP_NUM_THREADS"),
    ],
)
def test_threads_are_compared_with_the_cores_that_may_be_used(setting, state, mend):
    found = findings(GOOD, OMP_NUM_THREADS=setting)["threads"]
    assert (found.state, found.mend) == (state, mend)


def test_load_little_memory_and_a_missing_compiler_are_notes_with_a_mend():
    poor = replace(GOOD, load=20.0, free_bytes=1_000_000_000, has_compiler=False)
    found = findings(poor)
    for check in ("load", "memory", "C++ compiler"):
        assert found[check].state == "note" and found[check].mend, check
    assert "load" not in findings(GOOD)
