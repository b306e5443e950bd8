"""A tokenizer.json becomes GGUF's tokenizer fields, or is refused: llama.cpp knows pre-tokenizers by name only.

Two kinds have an exact form: byte-level BPE (`gpt2` in GGUF: Llama 3, SmolLM2) and SentencePiece-like BPE with byte
fallback (`llama`: Llama 2, TinyLlama), whose merge order becomes the score of each token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whet.errors import RecipeError
from whet.models.from_gguf import CONTROL_TOKEN

_NORMAL, _UNKNOWN, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 4, 5, 6
"""`token_type` besides CONTROL_TOKEN (GGUF specification, tokenizer.ggml.token_type)."""

_END = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_WORDS = (rf"'(?:[sdmt]|ll|ve|re)|{_END}", rf"'s|'t|'re|'ve|'m|'ll|'d|{_END}")
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES_ONLY = ("ByteLevel", False)
_BYTES_OF_GPT2_WORDS = ("ByteLevel", True)

_PRE_TOKENIZERS: dict[tuple[Any, ...], dict[bool, str]] = {
    (("Digits", True), _BYTES_OF_GPT2_WORDS): {False: "smollm"},
    (("Split", _LLAMA3_WORDS), _BYTES_ONLY): {True: "llama-bpe", False: "smaug-bpe"},
    (_BYTES_OF_GPT2_WORDS,): {False: "gpt-2"},
} | {(("Split", words), _BYTES_ONLY): {False: "gpt-2"} for words in _GPT2_WORDS}
"""Steps of tokenizer.json -> {whether a word that is a token skips the merges: llama.cpp's name for both}."""

_SPACE = "▁"
_SENTENCEPIECE_NORMALIZER = [
    {"type": "Prepend", "prepend": _SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
]


def add_tokenizer(writer: Any, tokenizer: Any, stop_ids: Sequence[int], *, num_rows: int, where: str) -> None:
    """Write the tokenizer, with unused tokens up to the embedding's `num_rows`, its end tokens and its chat template.

    RecipeError where llama.cpp would split a text otherwise.
    """
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise _refusal(f"a {model['type']} tokenizer", where)
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in document["added_tokens"]):
        raise _refusal("a tokenizer whose special tokens take the spaces beside them", where)
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        _check_sentencepiece(document, where)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix(True)
        writer.add_token_scores(_scores(model["vocab"], merges, num_rows, where))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(document, where))
        writer.add_token_merges([" ".join(merge) for merge in merges])
    tokens, types = _tokens(document, num_rows, where)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special_ids(writer, tokenizer, stop_ids)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def _pre_tokenizer(document: Mapping[str, Any], where: str) -> str:
    found = document["pre_tokenizer"] or {}
    steps = found["pretokenizers"] if found.get("type") == "Sequence" else [found]
    names = _PRE_TOKENIZERS.get(tuple(_step(step) for step in steps), {})
    name = names.get(bool(document["model"].get("ignore_merges")))
    if name is None or document["normalizer"] is not None:
        raise _refusal("a tokenizer that prepares text in a way that has no name in llama.cpp", where)
    return name


def _step(step: Mapping[str, Any]) -> tuple[Any, ...]:
    """What one step does, or only its type where it does something that llama.cpp cannot."""
    if step.get("type") == "ByteLevel" and not step["add_prefix_space"]:
        return ("ByteLevel", step["use_regex"])
    if step.get("type") == "Digits":
        return ("Digits", step["individual_digits"])
    if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return ("Split", step["pattern"].get("Regex"))
    return (step.get("type"),)


def _tokens(document: Mapping[str, Any], num_rows: int, where: str) -> tuple[list[str], list[int]]:
    model = document["model"]
    texts = {index: text for text, index in model["vocab"].items()}
    types = dict.fromkeys(texts, _NORMAL)
    if model.get("byte_fallback"):
        types |= {index: _BYTE for index, text in texts.items() if _is_byte(text)}
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = _UNKNOWN
    for token in document["added_tokens"]:
        texts[token["id"]] = token["content"]
        if types.get(token["id"]) != _UNKNOWN:
            types[token["id"]] = CONTROL_TOKEN if token["special"] else _USER_DEFINED
    if max(texts) >= num_rows:
        raise RecipeError(
            f"the tokenizer has a token {max(texts)}, the embedding only {num_rows} rows", where=where,
            mend="use the tokenizer that belongs to these weights",
        )  # fmt: skip
    return (
        [texts.get(index, f"[PAD{index}]") for index in range(num_rows)],
        [types.get(index, _UNUSED) for index in range(num_rows)],
    )


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _check_sentencepiece(document: Mapping[str, Any], where: str) -> None:
    normalizer = document["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if steps != _SENTENCEPIECE_NORMALIZER or document["pre_tokenizer"] or document["model"].get("ignore_merges"):
        raise _refusal("a SentencePiece-like tokenizer that prepares text in its own way", where)


def _scores(vocab: Mapping[str, int], merges: Sequence[tuple[str, ...]], num_rows: int, where: str) -> list[float]:
    """Per token minus the rank of the merges that make it: llama.cpp joins the pair whose result scores highest.

    That is the same order only if every way to make a token is a merge, and no other token's merge comes between.
    """
    rank = 0
    ranks: dict[str, int] = {}
    pairs = set()
    last = None
    for left, right in merges:
        pairs.add((left, right))
        made = left + right
        if made != last:
            if made in ranks:
                raise _refusal("a SentencePiece-like tokenizer whose merges are not ordered by token", where)
            rank, last = rank + 1, made
            ranks[made] = rank
    for token in ranks:
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        if any(left in vocab and right in vocab and (left, right) not in pairs for left, right in splits):
            raise _refusal(f"a SentencePiece-like tokenizer that lacks a merge of {token!r}", where)
    scores = [0.0] * num_rows
    for token, position in ranks.items():
        scores[vocab[token]] = -float(position)
    return scores


def _add_special_ids(writer: Any, tokenizer: Any, stop_ids: Sequence[int]) -> None:
    """Begin, end and padding; the end of a turn, which llama.cpp would otherwise guess; whether texts get a begin."""
    vocabulary = tokenizer.get_vocab()
    others = [index for index in stop_ids if index != tokenizer.eos_token_id]
    end_of_message = vocabulary.get("<|eom_id|>")
    turns = [index for index in others if index != end_of_message]
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    written = [index for index in turns if tokenizer.convert_ids_to_tokens(index) in template]
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id((written or [tokenizer.eos_token_id])[0])
    if end_of_message in others:
        writer.add_eom_token_id(end_of_message)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    bare, full = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    writer.add_add_bos_token(full[:1] == [tokenizer.bos_token_id] != bare[:1])
    writer.add_add_eos_token(full[-1:] == [tokenizer.eos_token_id] != bare[-1:])


def _refusal(what: str, where: str) -> RecipeError:
    return RecipeError(
        f"{what} cannot be written to GGUF so that llama.cpp splits text alike", where=where,
        mend="export with --to hf and convert with llama.cpp's own tools",
    )  # fmt: skip
