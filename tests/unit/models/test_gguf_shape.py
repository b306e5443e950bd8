"""The header of a GGUF file tells the shape that the converted folder's config.json tells."""

from __future__ import annotations

import json
import struct

import pytest

from whet.errors import HubError, RecipeError
from whet.models.families import find_shape, shape_from_config
from whet.models.from_gguf import convert_gguf
from whet.models.gguf_shape import shape_of_gguf


def test_the_shape_is_that_of_the_converted_model(tiny_gguf, tmp_path):
    convert_gguf(tiny_gguf, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert shape_of_gguf(tiny_gguf) == shape_from_config(config) == find_shape(str(tiny_gguf))


def test_a_damaged_header_and_another_architecture_are_refused(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0))
    with pytest.raises(HubError, match="no whole GGUF header"):
        shape_of_gguf(path)
    pair = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"mamba"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    with pytest.raises(RecipeError, match="mamba"):
        shape_of_gguf(path)
