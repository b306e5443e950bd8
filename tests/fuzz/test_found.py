"""What the fuzzer found: the inputs that once left a parser as an error that no user can act on, or hung it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fuzz_inputs import corpus_of, join_parts
from fuzz_targets import TARGETS, open_target

DEEP = b"[" * 100_000
LONG = b"9" * 5000
ADAPTER = b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": %s, "rank_pattern": %s}'
LORA_WEIGHTS = corpus_of("adapter")[1].partition(b"\n=====\n")[2]
BENCHMARK = corpus_of("benchmark-output")[0]
GGUF = corpus_of("gguf")[0]
GGUF_HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
_MANIFEST = b'{"format_version": 1, "step": %s, "sha256": {%s}, "bytes": {}}'
_ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": "\\ud800"}'
_LLAMA = corpus_of("model-folder")[1]
_NO_COUNTS = BENCHMARK.replace(b'"n-samples": {"sums"', b'"n-samples": {"x"')
FOUND = {
    "manifest nested too deeply": ("manifest", DEEP),
    "manifest of an endless step": ("manifest", _MANIFEST % (b"1e999", b"")),
    "manifest with a sum but no size": ("manifest", _MANIFEST % (b"4", b'"weights.safetensors": "0"')),
    "folder of another alphabet's step": ("folder-names", "\u00b2\n\u0663\n007\n7".encode()),
    "state nested too deeply": ("trainer-state", DEEP),
    "state that is a list": ("trainer-state", b"[]"),
    "override at an endless position": ("overrides", b"data.train." + LONG + b".rows=1"),
    "override of an endless key": ("overrides", b"data" + b".a" * 20_000 + b"=1"),
    "split with an endless number": ("overrides", b"data.train.0.split=train[" + LONG + b":]"),
    "number beyond every float": (
        "foreign-recipe", b"base_model: a/b\ndatasets: [{path: c}]\nmicro_batch_size: 1" + LONG[:400],
    ),
    "a list counted from a billion": (
        "foreign-recipe", b"base_model: a/b\nmicro_batch_size: 1\ndatasets: {999999999: {path: c}}\n",
    ),
    "one section in place of a list": (
        "foreign-recipe", b"base_model: a/b\nmicro_batch_size: 1\ndatasets:\n  type: alpaca\n  path: c\n",
    ),
    "tools with half a character": ("rows-jsonl", _ROW),
    "comparison beside one summary": ("evaluation-store", corpus_of("evaluation-store")[0]),
    "stored row with an endless number": ("evaluation-store", b'{"model": ' + LONG + b"}"),
    "benchmark in another encoding": ("benchmark-output", BENCHMARK.replace(b"sums", b"sum\xa4", 1)),
    "benchmark with counts that are none": (
        "benchmark-output", _NO_COUNTS.replace(b'"group_subtasks": {"sums": []}', b'"group_subtasks": 7'),
    ),
    "benchmark of a negative number of rows": ("benchmark-output", BENCHMARK.replace(b'"n": 2', b'"n": -2')),
    "adapter with a text for a pattern": (
        "adapter", join_parts(ADAPTER % (b'["q_proj", "v_proj"]', b'"x"'), LORA_WEIGHTS),
    ),
    "adapter with no names as targets": ("adapter", join_parts(ADAPTER % (b"[null]", b"{}"), LORA_WEIGHTS)),
    "adapter nested too deeply": ("adapter", join_parts(DEEP, LORA_WEIGHTS)),
    "weights in no clear pieces": ("weights", corpus_of("weights")[0].replace(b"[0, 0]", b"null  ")),
    "weights twice in the same place": ("weights", corpus_of("weights")[0].replace(b"[2, 0]", b"[0, 0]")),
    "index with half a character": ("model-folder", join_parts(b"", b"", b"", b'{"weight_map": {"a": "\\ud800"}}')),
    "index that is a list": ("model-folder", join_parts(b"", b"", b"", b'{"weight_map": ["a"]}')),
    "configuration without a head": (
        "model-folder", _LLAMA.replace(b'"num_attention_heads": 4', b'"num_attention_heads": 0'),
    ),
    "configuration with code of no kind": ("model-folder", join_parts(b'{"auto_map": 1}')),
    "rank of no type": ("rank-status", b'{"rank": "x", "world_size": 2, "time": NaN}'),
    "request of half an address": ("request", b"GET /v1/models\nhost: [\n=====\n"),
    "request nested too deeply": ("request", b"POST /v1/chat/completions\nhost: localhost\n=====\n" + DEEP),
    "GGUF with an array without an end": ("gguf", GGUF_HEAD + struct.pack("<IIQ", 9, 4, 1 << 60)),
    "GGUF with a text without an end": ("gguf", GGUF_HEAD + struct.pack("<IQ", 8, (1 << 64) - 1)),
    "GGUF cut in the middle": ("gguf", GGUF[: len(GGUF) // 2]),
    "GGUF without its block count": ("gguf", GGUF.replace(b"llama.block_count", b"llama.block_cOunt")),
    "log of no kind": ("metrics", b'{"step": 1}\n{"kind": "step", "step": 2, "loss": "x"}\n'),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_mended(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, data = FOUND[what]
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    try:
        open_target(name, tmp_path)(data)
    except TARGETS[name].raises as error:
        assert str(error).strip()
