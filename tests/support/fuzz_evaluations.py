"""Targets of the fuzzer: stored answers, journals, the shared cache of answers, and other tools' results."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from fuzz_inputs import parts_of
from fuzz_targets import Parser

from whet.errors import WhetError

_STORE_FILES = ("base.summary.json", "base.jsonl", "comparison.json")


def evaluation_store(scratch: Path) -> Parser:
    from whet.evaluation.plan_files import plan_documents
    from whet.evaluation.store import list_datasets, read_comparison, read_eval_report

    folder = scratch / "evaluations" / "sums"
    folder.mkdir(parents=True)

    def parse(data: bytes) -> None:
        for name, part in zip(_STORE_FILES, parts_of(data, len(_STORE_FILES)), strict=True):
            (folder / name).write_bytes(part)
        list_datasets(scratch)
        with suppress(WhetError):
            read_eval_report(folder, "base")
        with suppress(WhetError):
            read_comparison(folder)
        for document in plan_documents(scratch, "sums").values():
            json.dumps(document)

    return parse


def journal(scratch: Path) -> Parser:
    import os

    from whet.evaluation.answer_cache import find_answers
    from whet.evaluation.journal import Journal
    from whet.evaluation.questions import AnswerKey

    os.environ["WHET_CACHE"] = str(scratch / "cache")
    key = AnswerKey(weights="w", rows="r", decoding="greedy", code="c")
    header = json.dumps({"format_version": 1, "key": asdict(key)}, sort_keys=True).encode()
    shared = scratch / "cache" / "answers" / f"{key.digest}.jsonl"
    shared.parent.mkdir(parents=True)
    written = Journal(scratch, "base", key)

    def parse(data: bytes) -> None:
        (scratch / "base.answers.jsonl").write_bytes(header + b"\n" + data)
        answers = written.read()
        assert all(isinstance(generation.text, str) for generation, _ in answers)
        head = {"format_version": 1, "key": asdict(key), "sha256": hashlib.sha256(data).hexdigest()}
        shared.write_bytes(json.dumps(head).encode() + b"\n" + data)
        find_answers(key)
        shared.write_bytes(data)
        find_answers(key)

    return parse


def benchmark_output(scratch: Path) -> Parser:
    from whet.evaluation.standard import lm_eval_output, nemo_output

    folder = scratch / "lm" / "model"
    other = scratch / "nemo" / "gsm8k"
    folder.mkdir(parents=True)
    other.mkdir(parents=True)
    files = (
        folder / "results_2024.json", folder / "samples_sums_2024.jsonl", other / "eval-gsm8k.json",
        other / "results.jsonl",
    )  # fmt: skip

    def parse(data: bytes) -> None:
        for path, part in zip(files, parts_of(data, len(files)), strict=True):
            path.write_bytes(part)
        with suppress(WhetError):
            lm_eval_output.read_output(scratch / "lm")
        nemo_output.read_output(scratch / "nemo")

    return parse
