import gc
import multiprocessing
import os
from pathlib import Path

import pytest
from tiny import make_samples

from whet.data import cache_room
from whet.data.token_cache import TokenWriter, open_tokens
from whet.errors import RecipeError

KEYS = tuple(str(number) * 64 for number in range(4))


@pytest.fixture(autouse=True)
def tokens(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cache_room.VARIABLE, raising=False)
    return tmp_path / "cache" / "tokens"


def write(writer: TokenWriter):
    for number, sample in enumerate(make_samples([40] * 50)):
        writer.add(sample, content=number + 1, question=number + 1, parameters=0, origin=f"rows.jsonl:{number + 1}")
    return {"num_rows": 50}


def kept(tokens: Path) -> set[str]:
    return {path.name[0] for path in tokens.iterdir() if path.is_dir()}


def one_in_bytes(tokens: Path) -> int:
    return sum(file.stat().st_size for file in (tokens / KEYS[0][:32]).iterdir())


def fill(tokens: Path, *keys: str) -> None:
    """Tokens that nobody reads any more, used in this order."""
    for position, key in enumerate(keys):
        open_tokens(key, write)
        gc.collect()
        os.utime(tokens / f"{key[:32]}.used", (1000 + position,) * 2)


def test_above_the_limit_what_was_used_longest_ago_goes_first(tokens, monkeypatch):
    fill(tokens, KEYS[1], KEYS[0], KEYS[2])
    monkeypatch.setenv(cache_room.VARIABLE, str(3.5 * one_in_bytes(tokens) / 1e9))
    open_tokens(KEYS[1], write)  # used again
    gc.collect()
    open_tokens(KEYS[3], write)
    assert kept(tokens) == {"1", "2", "3"}


def test_below_the_limit_nothing_goes(tokens):
    fill(tokens, *KEYS)
    assert kept(tokens) == {"0", "1", "2", "3"}


def test_tokens_that_are_read_stay_and_go_once_nobody_reads_them(tokens, monkeypatch):
    monkeypatch.setenv(cache_room.VARIABLE, "0")
    read = open_tokens(KEYS[0], write)
    fill(tokens, KEYS[1])
    assert kept(tokens) == {"0", "1"}, "the one that is read, and the one written last"
    assert len(list(read.all_origins())) == 50
    fill(tokens, KEYS[2])
    assert kept(tokens) == {"0", "2"}
    del read
    gc.collect()
    fill(tokens, KEYS[3])
    assert kept(tokens) == {"3"}
    assert open_tokens(KEYS[0], write).was_cached is False


def _read_until_told(pipe) -> None:
    open_one = open_tokens(KEYS[0], write)
    pipe.send(open_one.was_cached)
    pipe.recv()


def test_tokens_that_another_process_reads_stay_until_it_is_dead(tokens, monkeypatch):
    fill(tokens, KEYS[0])
    here, there = multiprocessing.get_context("fork").Pipe()
    reader = multiprocessing.get_context("fork").Process(target=_read_until_told, args=(there,))
    reader.start()
    assert here.recv() is True
    monkeypatch.setenv(cache_room.VARIABLE, "0")
    fill(tokens, KEYS[1])
    assert kept(tokens) == {"0", "1"}
    reader.kill()
    reader.join()
    fill(tokens, KEYS[2])
    assert kept(tokens) == {"2"}


def test_what_a_dead_writer_left_goes_and_a_living_one_is_left_alone(tokens):
    fill(tokens, KEYS[0])
    dead, living = tokens / f"{KEYS[1][:32]}.draft", tokens / f"{KEYS[2][:32]}.draft"
    for draft in (dead, living):
        draft.mkdir()
        (draft / "ids.i32").write_bytes(b"1234")
    from whet import cache

    with cache.one_writer(tokens / f"{KEYS[2][:32]}.lock"):
        fill(tokens, KEYS[3])
    assert not dead.exists() and living.exists()


def test_a_limit_that_is_no_number_is_refused_before_anything_is_tokenized(tokens, monkeypatch):
    for said in ("many", "-1", "nan", "1,5"):
        monkeypatch.setenv(cache_room.VARIABLE, said)
        with pytest.raises(RecipeError, match=cache_room.VARIABLE):
            open_tokens(KEYS[0], lambda _writer: pytest.fail("rows were read"))
    for said, gigabytes in (("", 20.0), (" 1.5 ", 1.5), ("inf", float("inf"))):
        monkeypatch.setenv(cache_room.VARIABLE, said)
        assert cache_room.limit_bytes() == gigabytes * 1e9


def test_where_locks_are_not_known_nothing_is_removed(tokens, monkeypatch):
    import fcntl

    fill(tokens, KEYS[0], KEYS[1])
    monkeypatch.setenv(cache_room.VARIABLE, "0")

    def no_locks(_descriptor, _operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    open_tokens(KEYS[2], write)
    assert kept(tokens) == {"0", "1", "2"}


def test_a_link_in_the_cache_is_neither_followed_nor_counted(tokens, tmp_path, monkeypatch):
    fill(tokens, KEYS[0])
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"x")
    (tokens / "linked").symlink_to(victim)
    monkeypatch.setenv(cache_room.VARIABLE, "0")
    fill(tokens, KEYS[1])
    assert kept(tokens) >= {"1"} and (victim / "file").exists()
