"""How llama.cpp cuts a text into tokens, written from its llama-vocab.cpp: only the GGUF fields and the text go in."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
from tokenizers.pre_tokenizers import ByteLevel

_LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# pre-tokenizer -> (patterns applied one after the other, whether a word that is a token skips the merges)
_WORDS = {
    "llama-bpe": ((_LLAMA3,), True),
    "smaug-bpe": ((_LLAMA3,), False),
    "smollm": ((r"\p{N}", _GPT2), False),
    "gpt-2": ((_GPT2,), False),
}
_CONTROL, _USER_DEFINED = 3, 4


def read_metadata(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def tokenize(metadata: dict[str, Any], text: str) -> list[int]:
    """Ids of `text`, special tokens in it recognised, with the begin token if the file asks for one."""
    fields = {name.removeprefix("tokenizer.ggml."): value for name, value in metadata.items()}
    ids = [fields["bos_token_id"]] if fields["add_bos_token"] else []
    kinds = dict(zip(fields["tokens"], fields["token_type"], strict=True))
    special = sorted((t for t, kind in kinds.items() if kind in (_CONTROL, _USER_DEFINED)), key=len, reverse=True)
    number = {token: index for index, token in enumerate(fields["tokens"])}
    for piece in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if piece in special:
            ids.append(number[piece])
        elif piece:
            ids += _join_by_score(fields, number, piece) if fields["model"] == "llama" else _bpe(fields, number, piece)
    return ids


def _bpe(fields: dict[str, Any], number: dict[str, int], text: str) -> list[int]:
    patterns, takes_whole_words = _WORDS[fields["pre"]]
    words = [text]
    for pattern in patterns:
        words = [part for word in words for part in _cut(pattern, word)]
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["merges"])}
    ids: list[int] = []
    for word in words:
        symbols = list(ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)[0][0])
        if takes_whole_words and "".join(symbols) in number:
            symbols = ["".join(symbols)]
        while len(symbols) > 1:
            rank, at = min((ranks.get((a, b), len(ranks)), i) for i, (a, b) in enumerate(pairwise(symbols)))
            if rank == len(ranks):
                break
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        ids += [number[symbol] for symbol in symbols]
    return ids


def _cut(pattern: str, text: str) -> list[str]:
    """Matches, and what lies between them."""
    return [part for part in regex.split(f"({pattern})", text) if part]


def _join_by_score(fields: dict[str, Any], number: dict[str, int], text: str) -> list[int]:
    assert fields["add_space_prefix"]
    symbols = list((" " + text).replace(" ", "▁"))
    while True:
        joined = [(a + b, i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in number]
        if not joined:
            break
        _, at = max((fields["scores"][number[token]], -i) for token, i in joined)
        symbols[-at : -at + 2] = ["".join(symbols[-at : -at + 2])]
    ids: list[int] = []
    for symbol in symbols:
        ids += [number[symbol]] if symbol in number else [number[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return ids
