import struct
import time
from pathlib import Path

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from whet.errors import HubError
from whet.models.gguf_header import check_gguf


def block_sizes(kind: int) -> tuple[int, int]:
    return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    check_gguf(path, block_sizes)


def head(num_tensors: int, num_pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_pairs)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def test_a_whole_file_passes(tiny_gguf):
    check_gguf(tiny_gguf, block_sizes)


def test_an_array_that_says_to_be_endless_is_refused_at_once(tmp_path):
    started = time.process_time()
    for inner in (4, 8):
        with pytest.raises(HubError, match=r"1152921504606846976 values in a file of \d+ bytes"):
            check(tmp_path / "x.gguf", head(0, 1) + text(b"a") + struct.pack("<IIQ", 9, inner, 1 << 60))
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(40), "does not begin"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (head(1 << 62, 0), "tensors in a file"),
        (head(0, 1) + text(b"a") + struct.pack("<IQ", 8, (1 << 64) - 1), "in the middle"),
        (head(0, 2) + (text(b"a") + struct.pack("<II", 4, 1)) * 2, "two values"),
        (head(0, 1) + text(b"a") + struct.pack("<IIQI", 9, 9, 1, 4) + bytes(8), "value of type 9"),
        (head(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0), "alignment of 0"),
        (head(1, 0) + text(b"w") + struct.pack("<IQIQ", 1, 1 << 40, 0, 0), "behind its end"),
        (head(1, 0) + text(b"w") + struct.pack("<IQIQ", 1, 33, 2, 0) + bytes(64), "its type does not have"),
        (head(1, 0) + text(b"w") + struct.pack("<I", 99) + bytes(64), "99 dimensions"),
        (head(1, 0) + text(b"w") + struct.pack("<IQIQ", 1, 32, 999, 0) + bytes(64), "999"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(tmp_path, content, said):
    with pytest.raises(HubError, match=said):
        check(tmp_path / "x.gguf", content)


def test_every_cut_and_no_flipped_bit_of_the_header_leaves_it_as_another_error(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    for length in (*range(0, 200), len(whole) // 2, len(whole) - 33):
        with pytest.raises(HubError):
            check(tmp_path / "x.gguf", whole[:length])
    for place in range(0, 300):
        try:
            check(tmp_path / "x.gguf", whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        except HubError:
            continue
