import errno
import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_samples

from whet.data.token_cache import TokenWriter, open_tokens
from whet.data.token_set import join_sources
from whet.errors import StorageError
from whet.types import LedgerRow

KEY = "0" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def _writer(samples, *, contents=None, notes=()):
    def write(writer: TokenWriter):
        for number, sample in enumerate(samples):
            content = contents[number] if contents else number + 1
            writer.add(sample, content=content, question=number + 10, parameters=0, origin=f"rows.jsonl:{number + 1}")
        for note in notes:
            writer.note(note)
        return {"num_rows": len(samples) + sum(note.status != "truncated" for note in notes)}

    return write


def _refuse(_writer):
    raise AssertionError("the cache has these tokens")


def test_tokens_come_back_as_they_went_in_and_are_written_once():
    samples = make_samples([5, 1, 9])
    first = open_tokens(KEY, _writer(samples))
    again = open_tokens(KEY, _refuse)
    assert (first.was_cached, again.was_cached) == (False, True) and first.fingerprint == again.fingerprint
    back = join_sources("train", [again], drops_duplicates=False).samples
    assert len(back) == 3
    for sample, found in zip(samples, back, strict=True):
        assert found.ids.dtype == np.int32 and found.taught.dtype == np.bool_
        assert found.ids.tolist() == sample.ids.tolist() and found.taught.tolist() == sample.taught.tolist()
    assert [s.id for s in back] == [f"{number:016x}-0" for number in (1, 2, 3)]
    assert [s.id for s in back[1:]] == [back[1].id, back[2].id] and back[-1].id == back[2].id


def test_a_writer_that_fails_leaves_nothing_behind(own_cache):
    def fail(writer):
        writer.add(make_samples([4])[0], content=1, question=1, parameters=0, origin="x:1")
        raise ValueError("row 2")

    with pytest.raises(ValueError, match="row 2"):
        open_tokens(KEY, fail)
    assert [p.name for p in own_cache.iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("name", ["ids.i32", "taught.u8", "samples.bin", "ledger.jsonl", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_tokens_are_made_again_never_used(own_cache, name, damage):
    note = LedgerRow(origin="x:9", status="too long", reason="")
    first = open_tokens(KEY, _writer(make_samples([5, 7]), notes=[note]))
    path = own_cache / KEY[:32] / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    again = open_tokens(KEY, _writer(make_samples([5, 7]), notes=[note]))
    assert not again.was_cached and again.fingerprint == first.fingerprint


def test_tokens_of_another_format_are_made_again(own_cache):
    open_tokens(KEY, _writer(make_samples([5])))
    path = own_cache / KEY[:32] / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 0}))
    assert not open_tokens(KEY, _writer(make_samples([5]))).was_cached


def _open_slowly(folder: str, barrier, answers) -> None:
    os.environ["WHET_CACHE"] = folder
    written = []

    def write(writer):
        written.append(1)
        time.sleep(0.3)
        return _writer(make_samples([5, 6, 7]))(writer)

    barrier.wait()
    tokens = open_tokens(KEY, write)
    answers.put((len(written), tokens.fingerprint))


def test_of_processes_that_ask_at_once_one_writes_and_all_read_the_same(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open_slowly, args=(str(tmp_path), barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(count for count, _ in found) == [0, 0, 1] and len({sha for _, sha in found}) == 1


def test_what_a_killed_process_left_is_cleared_away(own_cache):
    draft = own_cache / f"{KEY[:32]}.draft"
    draft.mkdir(parents=True)
    (draft / "ids.i32").write_bytes(b"torn")
    tokens = open_tokens(KEY, _writer(make_samples([5])))
    assert len(tokens.samples) == 1 and not draft.exists()


def test_a_full_disk_is_a_storage_error_that_names_the_way_out(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        open_tokens(KEY, _writer(make_samples([5])))


def test_a_failing_source_is_not_taken_for_a_failing_cache():
    def fail(_writer):
        raise FileNotFoundError(errno.ENOENT, "no such file", "rows.jsonl")

    with pytest.raises(FileNotFoundError):
        open_tokens(KEY, fail)


def test_reading_a_sample_does_not_read_the_others(own_cache):
    open_tokens(KEY, _writer(make_samples([4000] * 50)))
    samples = join_sources("train", [open_tokens(KEY, _refuse)], drops_duplicates=False).samples
    assert isinstance(samples._sources[0].ids, np.memmap) and samples[7].num_tokens == 4000


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sources=st.lists(st.lists(st.integers(1, 6), max_size=8), min_size=1, max_size=4).filter(any),
    dropped=st.integers(0, 3), drops=st.booleans(),
)  # fmt: skip
def test_the_ledger_accounts_for_every_row_and_ids_are_unique(sources, dropped, drops):
    cached, num_rows = [], 0
    for number, contents in enumerate(sources):
        notes = [LedgerRow(origin=f"{number}:{i}", status="too long", reason="9 tokens") for i in range(dropped)]
        # the first sample of every source was cut
        if contents:
            notes.append(LedgerRow(origin="rows.jsonl:1", status="truncated", reason="9 tokens", num_tokens_cut=3))
        key = hashlib.sha256(json.dumps([number, contents, dropped]).encode()).hexdigest()
        cached.append(open_tokens(key, _writer(make_samples([3] * len(contents)), contents=contents, notes=notes)))
        num_rows += len(contents) + dropped
    joined = join_sources("train", cached, drops_duplicates=drops)
    ledger, flat = joined.ledger, [content for contents in sources for content in contents]
    assert ledger.num_rows == num_rows == ledger.num_kept + len(ledger.rows)
    assert ledger.count("too long") == dropped * len(sources)
    assert ledger.count("duplicate") == len(flat) - len(set(flat))
    assert len(joined.samples) == ledger.num_samples == (len(set(flat)) if drops else len(flat))
    assert sum(joined.source_sizes) == len(joined.samples) == len(joined.lengths) == len(joined.num_taught)
    ids = [sample.id for sample in joined.samples]
    assert len(set(ids)) == len(ids)
    assert sorted(int(each.partition("-")[0], 16) for each in ids) == sorted(set(flat) if drops else flat)


def test_a_fingerprint_knows_the_tokens_and_what_was_left_out(tmp_path):
    one = open_tokens(KEY, _writer(make_samples([5, 6]), contents=[1, 1]))
    other = open_tokens("1" * 64, _writer(make_samples([5, 7]), contents=[1, 1]))
    sets = [join_sources("train", sources, drops_duplicates=drops)
            for sources in ([one], [other], [one, other], [other, one]) for drops in (False, True)]  # fmt: skip
    assert len({each.fingerprint for each in sets}) == len(sets)
    assert Path(one.folder).exists()
