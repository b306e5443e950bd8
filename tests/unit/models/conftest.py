"""A tiny GGUF and the model folder made of it, a cache of one's own per test, and a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, INNER, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS = 64, 96, 2, 4, 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """No test touches the user's caches or token."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WHET_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("WHET_BUILTIN_WHEEL", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A 2-layer Llama, weights Q4_1, embedding Q8_0, with SmolLM's kind of tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture(scope="session")
def _tiny_folder(tiny_gguf, tmp_path_factory) -> Path:
    from whet.models.from_gguf import convert_gguf

    folder = tmp_path_factory.mktemp("converted") / "tiny"
    folder.mkdir()
    convert_gguf(tiny_gguf, folder)
    return folder


@pytest.fixture
def tiny_folder(_tiny_folder, tmp_path) -> Path:
    """A whole model folder that the test may damage."""
    return Path(shutil.copytree(_tiny_folder, tmp_path / "tiny"))


@pytest.fixture
def write_gguf():
    """The function that writes the tiny GGUF, for variants of it."""
    return write_tiny_gguf


def write_tiny_gguf(path: Path, *, pre_tokenizer: str = "smollm") -> None:
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "Ġt", "he", "Ġthe", "ĠĠ"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(NUM_LAYERS)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // NUM_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> None:
        values = rng.normal(0, 0.2, shape).astype(np.float32)
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    kv = HIDDEN * NUM_KV_HEADS // NUM_HEADS
    add("token_embd.weight", (len(tokens), HIDDEN), GGMLQuantizationType.Q8_0)
    add("output_norm.weight", (HIDDEN,), GGMLQuantizationType.F32)
    for layer in range(NUM_LAYERS):
        add(f"blk.{layer}.attn_norm.weight", (HIDDEN,), GGMLQuantizationType.F32)
        add(f"blk.{layer}.ffn_norm.weight", (HIDDEN,), GGMLQuantizationType.F32)
        shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN)}
        shapes |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
        for name, shape in (shapes | {"ffn_down": (HIDDEN, INNER)}).items():
            add(f"blk.{layer}.{name}.weight", shape, GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass
class FakeHub:
    """One model `owner/tiny` behind the calls that huggingface_hub makes; the fields bring its faults."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    lfs: set[str] = field(default_factory=set)
    """names that are announced with SHA-256 instead of git's SHA-1"""
    status: int = 200
    error_code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    file_status: int = 200
    silent_seconds: float = 0.0
    """before any answer"""
    trickle_seconds: float = 0.0
    """between the bytes of the list of files"""
    body: bytes | None = None
    """instead of the list of files"""
    swapped: dict[str, bytes] = field(default_factory=dict)
    """what is sent instead of a file's bytes"""
    endpoint: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Authorization header)"""

    def etag(self, name: str) -> str:
        content = self.files[name]
        if name in self.lfs:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def listing(self) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": self.etag(name)}
            if name in self.lfs:
                entry["lfs"] = {"sha256": self.etag(name), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return json.dumps({"id": "owner/tiny", "sha": self.commit, "siblings": siblings}).encode()

    def paths(self, method: str) -> list[str]:
        return [path for kind, path, _ in self.requests if kind == method]


@pytest.fixture
def fake_hub(_tiny_folder, monkeypatch):
    """A running FakeHub that serves the tiny model; HF_ENDPOINT points to it."""
    files = {path.name: path.read_bytes() for path in sorted(_tiny_folder.iterdir())}
    hub = FakeHub(files=files, lfs={"model.safetensors"})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
            time.sleep(hub.silent_seconds)
            if path.startswith("/api/models/owner/tiny"):
                self.answer_list()
            elif path.startswith("/owner/tiny/resolve/"):
                self.answer_file(path.split("/", 5)[5])
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def answer_list(self) -> None:
            if hub.status != 200:
                self.answer(hub.status, b'{"error": "no"}', {"X-Error-Code": hub.error_code, **hub.headers})
            else:
                body = hub.listing() if hub.body is None else hub.body
                self.answer(200, body, {}, pause_seconds=hub.trickle_seconds)

        def answer_file(self, name: str) -> None:
            if hub.file_status != 200:
                self.answer(hub.file_status, b"{}", {})
                return
            size = {"X-Linked-Size": str(len(hub.files[name]))}
            marks = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": hub.commit, **size}
            self.answer(200, hub.swapped.get(name, hub.files[name]), marks)

        def answer(self, status: int, body: bytes, headers: dict[str, str], pause_seconds: float = 0.0) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            pieces = [body[i : i + 1] for i in range(len(body))] if pause_seconds else [body]
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(pause_seconds)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *args: object) -> None:
            """A client that gave up is part of the tests, not news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub
        server.shutdown()
