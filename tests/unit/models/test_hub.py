"""Every way the hub can fail has its own sentence, in bounded time, with no token in it and no file unverified."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time

import pytest

from whet.errors import HubError, RecipeError, StorageError
from whet.hub.settings import HubSettings
from whet.models.hub import fetch_snapshot

pytestmark = pytest.mark.slow

TOKEN = "hf_CANARYcanaryCANARYcanary"


@pytest.fixture
def settings(tmp_path):
    def build(**changed):
        return HubSettings(
            cache_dir=tmp_path / "hub",
            **{"request_seconds": 2.0, "listing_seconds": 4.0, "silence_seconds": 5.0, **changed},
        )

    return build


@pytest.fixture
def token(monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


def refusal(settings, *, model_id="owner/tiny", revision=None, **changed) -> HubError:
    started = time.monotonic()
    with pytest.raises(HubError) as caught:
        fetch_snapshot(model_id, revision, settings(**changed))
    assert time.monotonic() - started < 8
    assert caught.value.mend
    return caught.value


def test_fetches_what_a_model_needs_and_nothing_that_is_code_or_pickle(fake_hub, settings):
    extra = ("pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "original/params.json", "x.gguf")
    fake_hub.files |= dict.fromkeys(extra, b"unwanted")
    snapshot = fetch_snapshot("owner/tiny", None, settings())
    names = {path.name for path in snapshot.folder.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not [path for path in fake_hub.paths("GET") if path.endswith(extra)]
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake_hub.files["model.safetensors"]


def test_a_branch_is_resolved_to_its_commit_and_fetched_by_it(fake_hub, settings):
    snapshot = fetch_snapshot("owner/tiny", "main", settings())
    assert snapshot.commit == "a" * 40
    assert all(f"/{snapshot.commit}/" in path for path in fake_hub.paths("GET") if "/resolve/" in path)


def test_files_in_the_cache_are_not_fetched_again(fake_hub, settings):
    fetch_snapshot("owner/tiny", None, settings())
    fake_hub.requests.clear()
    fetch_snapshot("owner/tiny", None, settings())
    assert [path for path in fake_hub.paths("GET") if "/resolve/" in path] == []


@pytest.mark.parametrize("revision", [None, "main", "a" * 40])
def test_offline_uses_the_cache_without_a_request(fake_hub, settings, revision):
    fetched = fetch_snapshot("owner/tiny", None, settings())
    fake_hub.requests.clear()
    assert fetch_snapshot("owner/tiny", revision, settings(is_offline=True)).folder == fetched.folder
    assert fake_hub.requests == []


def test_offline_is_read_from_the_environment(monkeypatch):
    assert not HubSettings().is_offline
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert HubSettings().is_offline


def test_offline_without_a_copy_says_how_to_get_one(fake_hub, settings):
    error = refusal(settings, is_offline=True)
    assert "HF_HUB_OFFLINE" in error.what
    assert "whet prepare --model owner/tiny" in error.mend
    assert fake_hub.requests == []


def test_an_unreachable_hub_is_replaced_by_the_cache_and_said(fake_hub, settings, caplog):
    fetched = fetch_snapshot("owner/tiny", None, settings())
    again = fetch_snapshot("owner/tiny", None, settings(endpoint="http://127.0.0.1:9"))
    assert again.folder == fetched.folder
    assert "could not be reached" in caplog.text
    assert "copy in the cache is used" in caplog.text


def test_an_unreachable_hub_without_a_copy_is_an_error(settings):
    assert "could not be reached" in refusal(settings, endpoint="http://127.0.0.1:9").what


def test_401_without_a_token_asks_for_one_and_offers_the_nearest_id(fake_hub, settings):
    error = refusal(settings, model_id="meta-llama/Llama-3.1-8b-instruc")
    assert "no token was sent" in error.what
    assert "did you mean meta-llama/Llama-3.1-8B-Instruct?" in error.mend
    fake_hub.status, fake_hub.error_code = 401, "RepoNotFound"
    assert "no token was sent" in refusal(settings).what


def test_401_with_a_token_says_where_the_token_came_from(fake_hub, settings, token):
    fake_hub.status, fake_hub.headers = 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
    error = refusal(settings)
    assert "the token from the environment variable HF_TOKEN is not valid" in error.what
    assert fake_hub.requests[0][2] == f"Bearer {token}"


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_sends_to_its_licence(fake_hub, settings, status):
    fake_hub.status, fake_hub.error_code = status, "GatedRepo"
    error = refusal(settings)
    assert "gated" in error.what
    assert "accept the licence" in error.mend
    assert "set HF_TOKEN" in error.mend


def test_a_gated_model_with_a_token_does_not_ask_for_a_token(fake_hub, settings, token):
    fake_hub.status, fake_hub.error_code = 403, "GatedRepo"
    assert "HF_TOKEN" not in refusal(settings).mend


def test_403_that_is_not_gated_speaks_of_the_token_rights(fake_hub, settings, token):
    fake_hub.status = 403
    error = refusal(settings)
    assert "may not read" in error.what
    assert "gated" not in error.what


def test_404_offers_the_nearest_id(fake_hub, settings, token):
    error = refusal(settings, model_id="HuggingFaceTB/SmolLM2-135M-Instuct")
    assert "no model HuggingFaceTB/SmolLM2-135M-Instuct" in error.what
    assert "did you mean HuggingFaceTB/SmolLM2-135M-Instruct?" in error.mend


def test_a_missing_revision_is_named(fake_hub, settings):
    fake_hub.status, fake_hub.error_code = 404, "RevisionNotFound"
    assert "has no revision 'v9'" in refusal(settings, revision="v9").what


def test_429_tells_when_to_try_again(fake_hub, settings):
    fake_hub.status, fake_hub.headers = 429, {"Retry-After": "17"}
    error = refusal(settings)
    assert "too many requests" in error.what
    assert "in 17 s" in error.mend


@pytest.mark.parametrize("status", [500, 503])
def test_5xx_blames_the_hub(fake_hub, settings, status):
    fake_hub.status = status
    assert f"out of order (HTTP {status})" in refusal(settings).what


def test_5xx_while_fetching_a_file_blames_the_hub_and_begins_no_further_file(fake_hub, settings, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    fake_hub.files |= {f"extra{number}.json": b"{}" for number in range(20)}
    fake_hub.file_status = 503
    assert "out of order (HTTP 503)" in refusal(settings).what
    assert len(set(fake_hub.paths("HEAD"))) < 10


def test_a_silent_hub_is_given_up(fake_hub, settings):
    fake_hub.silent_seconds = 3
    assert "too slow" in refusal(settings, request_seconds=0.3).what


@pytest.mark.slow
def test_a_trickling_hub_is_given_up(fake_hub, settings):
    """Every byte restarts the socket's own timeout: without a limit on the whole answer this never ends."""
    fake_hub.trickle_seconds = 0.1
    assert "too slow" in refusal(settings, request_seconds=0.5, listing_seconds=0.8).what


def test_a_login_page_in_the_way_is_recognised(fake_hub, settings):
    fake_hub.body = b"<html>please log in</html>"
    assert "does not answer like a hub" in refusal(settings).what


def test_an_incomplete_download_is_named_and_can_be_repeated(fake_hub, settings):
    fake_hub.swapped = {"model.safetensors": fake_hub.files["model.safetensors"][:-1000]}
    assert "model.safetensors of owner/tiny arrived incomplete" in refusal(settings).what
    fake_hub.swapped = {}
    fetch_snapshot("owner/tiny", None, settings())


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_changed_byte_of_the_right_length_is_found_and_fetched_anew(fake_hub, settings, name):
    content = fake_hub.files[name]
    fake_hub.swapped = {name: content[:-1] + bytes([content[-1] ^ 1])}
    assert f"{name} of owner/tiny is damaged" in refusal(settings).what
    fake_hub.swapped = {}
    snapshot = fetch_snapshot("owner/tiny", None, settings())
    assert (snapshot.folder / name).read_bytes() == content


def test_a_file_damaged_in_the_cache_is_found_offline(fake_hub, settings):
    path = fetch_snapshot("owner/tiny", None, settings()).folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "is damaged" in refusal(settings, is_offline=True).what


def test_a_full_disk_is_seen_before_the_download(fake_hub, settings, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StorageError, match="no space left"):
        fetch_snapshot("owner/tiny", None, settings())
    assert [path for path in fake_hub.paths("GET") if "/resolve/" in path] == []


def test_a_disk_that_fills_up_during_the_download_is_a_storage_error(fake_hub, settings, monkeypatch):
    def write_fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "blob")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", write_fails)
    with pytest.raises(StorageError, match="no space left"):
        fetch_snapshot("owner/tiny", None, settings())


def test_a_model_with_pickled_weights_only_is_refused(fake_hub, settings):
    del fake_hub.files["model.safetensors"]
    fake_hub.files["pytorch_model.bin"] = b"\x80\x04."
    with pytest.raises(RecipeError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        fetch_snapshot("owner/tiny", None, settings())
    assert [path for path in fake_hub.paths("GET") if "/resolve/" in path] == []


def test_a_file_name_with_a_folder_is_never_fetched(fake_hub, settings, tmp_path):
    fake_hub.files["../../../evil.json"] = b"{}"
    fetch_snapshot("owner/tiny", None, settings())
    assert list(tmp_path.rglob("evil.json")) == []


def test_no_message_and_no_log_holds_the_token(fake_hub, settings, token, caplog):
    caplog.set_level(logging.DEBUG)
    for status, code in ((401, ""), (403, ""), (403, "GatedRepo"), (404, "RepoNotFound"), (429, ""), (500, "")):
        fake_hub.status, fake_hub.error_code = status, code
        error = refusal(settings)
        assert token not in f"{error}{error.__cause__!r}"
    assert token not in caplog.text


def test_no_message_holds_the_user_part_of_the_endpoint(settings):
    error = refusal(settings, endpoint="http://user:secret@127.0.0.1:9")
    assert "secret" not in str(error)


def test_a_token_over_plain_http_is_warned_about(settings, token, caplog):
    refusal(settings, endpoint="http://127.0.0.2:9")
    assert "travels unencrypted to 127.0.0.2" in caplog.text
    assert token not in caplog.text


def test_plain_http_on_this_machine_is_not_warned_about(fake_hub, settings, token, caplog):
    fetch_snapshot("owner/tiny", None, settings())
    assert caplog.text == ""


def test_an_id_that_cannot_be_one_is_refused_without_a_request(fake_hub, settings):
    assert "is not a hub id" in refusal(settings, model_id="owner/ti ny").what
    assert fake_hub.requests == []


def test_the_listing_of_the_fake_is_what_the_client_reads(fake_hub):
    assert json.loads(fake_hub.listing())["siblings"][0]["rfilename"] == "chat_template.jinja"


@pytest.mark.parametrize("revision", ["../../../escape", "a/../../../escape", "/tmp/escape"])
def test_a_revision_cannot_choose_where_it_is_noted(tmp_path, revision):
    from whet.models import hub

    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    hub._note_revision(snapshot, revision, "c0ffee")
    assert sorted(tmp_path.rglob("*")) == before
    hub._note_revision(snapshot, "refs/pr/1", "c0ffee")
    assert (snapshot.parents[1] / "refs" / "refs" / "pr" / "1").read_text() == "c0ffee"
