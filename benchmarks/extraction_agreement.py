"""Claim: on 500 real generations whet's GSM8K extraction and lm-eval's two filters differ only for reasons named here.

lm-eval's own filter classes, built from its own tasks/gsm8k/gsm8k.yaml, and its exact_match read the stored texts of
real answers; so does whet. Compared are the number that each takes and the verdict. Every difference is put under the
first rule of `RULES` that holds for it; one that fits no rule is printed, and the exit code is 1.

    WHET_TEST_DATA=... python benchmarks/extraction_agreement.py

Without files it reads outputs/extraction_agreement.jsonl, and writes that first where it is missing: the built-in
model's greedy answers to the first 500 GSM8K test questions, every second one asked to end with `#### N`. Other files
may be named; their rows are {"id", "text", "golds"} as in a run's evaluations/SET/base.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import write_result
from whet.data.datasets import math_answer, number_text

INVALID = "[invalid]"
GENERATIONS = Path("outputs", "extraction_agreement.jsonl")
EXCERPT_CHARACTERS = 80
ASKED_FORM = (
    "Solve it step by step. The last line must be the answer alone behind four number signs, for example:\n#### 48"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text, read by whet and by one filter."""

    text: str
    ours: str
    """canonical; "" for none"""
    is_marked: bool
    """ours stands behind a mark (`####`, `\\boxed{}`, `Answer:`, `The answer is:`)"""
    theirs: str
    """as the filter gives it"""
    is_right_ours: bool
    is_right_theirs: bool

    @property
    def their_number(self) -> str:
        """What lm-eval compares: without commas, dollar signs and a last stop."""
        return re.sub(r"\.$", "", self.theirs.replace(",", "").replace("$", ""))

    @property
    def before(self) -> str:
        """What stands in front of the flexible filter's match, the last in the text."""
        return self.text[: self.text.rfind(self.theirs)]

    @property
    def is_same_number(self) -> bool:
        """Whether both took the same value, in whatever writing, or both none."""
        if not self.ours:
            return self.theirs == INVALID
        return math_answer.is_correct(self.ours, (self.their_number,))


def _finds_nothing(case: Case) -> bool:
    return case.theirs == INVALID and bool(case.ours)


def _finds_nothing_but_a_mark(case: Case) -> bool:
    return _finds_nothing(case) and case.is_marked


def _is_stated_in_the_line(case: Case) -> bool:
    line = case.text.partition("####")[2].partition("\n")[0]
    return line.startswith(f" {case.theirs}") and number_text.stated_number(number_text.to_plain(line)) == case.ours


def _is_denominator(case: Case) -> bool:
    parts = case.ours.split("/")
    return len(parts) == 2 and case.before.endswith("/") and parts[1] == case.their_number


def _is_behind_the_mark(case: Case) -> bool:
    return case.is_marked and math_answer.extract(case.before) == (case.ours, True)


def _is_made_up_question(case: Case) -> bool:
    return len(math_answer.own_answer(case.text)) <= len(case.before)


def _is_no_number(case: Case) -> bool:
    return not re.search(r"\d", case.theirs)


def _is_other_writing(case: Case) -> bool:
    return case.is_same_number and case.is_right_ours != case.is_right_theirs


def _is_cut_or_foreign(case: Case) -> bool:
    return re.search(r"\d,\d{1,2}\.?$", case.theirs) is not None


def _is_subtraction(case: Case) -> bool:
    return case.theirs.startswith("-") and re.search(r"[\w.)\]}]$", case.before) is not None


def _is_part_of_a_larger_sign(case: Case) -> bool:
    return re.search(r"[\^:]\{?$", case.before) is not None or re.match(
        r"(?i)[ ]?(?:thousand|million|billion|\^|:\d|e[+-]?\d)", case.text[len(case.before) + len(case.theirs) :]
    ) is not None  # fmt: skip


def _is_formula(case: Case) -> bool:
    return (
        not case.ours and math_answer.find_marked(number_text.to_plain(math_answer.own_answer(case.text))) is not None
    )


Rule = tuple[str, Callable[[Case], bool]]
STRICT_RULES: tuple[Rule, ...] = (
    ("there is no `#### NUMBER`, all that strict reads; ours is behind another mark", _finds_nothing_but_a_mark),
    ("there is no `#### NUMBER`, all that strict reads; ours is the last number", _finds_nothing),
    ("the same number in other writing: lm-eval compares text (5.00 is not 5)", _is_other_writing),
    ("strict takes the first number behind `####`, ours what is stated there (2 + 2 = 4)", _is_stated_in_the_line),
)
FLEXIBLE_RULES: tuple[Rule, ...] = (
    ("flexible finds a number of its form nowhere", _finds_nothing),
    ("flexible takes stops, commas or dollar signs alone for a number", _is_no_number),
    ("the same number in other writing: lm-eval compares text (5.00 is not 5)", _is_other_writing),
    ("a fraction: flexible takes its denominator", _is_denominator),
    ("flexible reads on in a question that the model made up behind its answer", _is_made_up_question),
    ("the mark says that there is no number; flexible goes on looking", _is_formula),
    ("flexible takes the last number of all; ours the answer behind a mark before it", _is_behind_the_mark),
    ("no number with thousands commas (350,00): ours leaves it, flexible drops the comma", _is_cut_or_foreign),
    ("a hyphen behind a digit: flexible reads a minus sign", _is_subtraction),
    ("a power, a time, a scale: flexible reads its digits alone", _is_part_of_a_larger_sign),
)


def build_filters() -> tuple[dict[str, Callable[[str], str]], Callable[[str, str], bool]]:
    """lm-eval's filters for GSM8K by name, and its comparison of an extracted text with a gold."""
    import lm_eval
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import get_filter

    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    [metric] = task["metric_list"]

    def build(steps: list[dict[str, Any]]) -> Callable[[str], str]:
        [regex, first] = steps
        assert first == {"function": "take_first"}
        arguments = {key: value for key, value in regex.items() if key != "function"}
        step = get_filter(regex["function"])(**arguments)
        return lambda text: step.apply([[text]], [{}])[0][0]

    def is_equal(extracted: str, gold: str) -> bool:
        keywords = {key: metric[key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
        return bool(exact_match_hf_evaluate([extracted], [gold], **keywords)["exact_match"])

    return {each["name"]: build(each["filter"]) for each in task["filter_list"]}, is_equal


def study(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Per filter the counts, and every row on which it and whet differ."""
    filters, is_equal = build_filters()
    found: dict[str, Any] = {}
    for name, rules in (("strict-match", STRICT_RULES), ("flexible-extract", FLEXIBLE_RULES)):
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        differing = []
        for row in rows:
            ours, is_marked = math_answer.extract(row["text"])
            theirs = filters[name](row["text"])
            case = Case(
                text=row["text"],
                ours=ours,
                is_marked=is_marked,
                theirs=theirs,
                is_right_ours=math_answer.is_correct(ours, tuple(row["golds"])),
                is_right_theirs=any(is_equal(theirs, gold) for gold in row["golds"]),
            )
            counts[f"ours {_verdict(case.is_right_ours)}, theirs {_verdict(case.is_right_theirs)}"] += 1
            if case.is_same_number and case.is_right_ours == case.is_right_theirs:
                counts["same number and verdict"] += 1
                continue
            reason = next((text for text, holds in rules if holds(case)), "UNEXPLAINED")
            reasons[reason] += 1
            differing.append(
                {
                    "id": row["id"], "reason": reason, "ours": ours, "theirs": theirs, "golds": row["golds"],
                    "verdict": f"ours {_verdict(case.is_right_ours)}, theirs {_verdict(case.is_right_theirs)}",
                    "text_end": row["text"][-EXCERPT_CHARACTERS:],
                }
            )  # fmt: skip
        found[name] = {"counts": dict(counts), "reasons": dict(reasons), "differing_rows": differing}
    return found


def _verdict(is_right: bool) -> str:
    return "right" if is_right else "wrong"


def generate(path: Path, num_rows: int) -> None:
    """Write greedy answers of the built-in model, 160 new tokens at most."""
    import torch

    from whet.data import templates
    from whet.data.rows import number_ids
    from whet.data.sources import BadRow, open_source
    from whet.evaluation.answers import write
    from whet.inference.decoding import Decoding
    from whet.kernels import attention
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model, Source

    loaded = load_pretrained(Model(), device=torch.device("cpu"))
    attention.install(loaded.model)
    template = templates.build_template(loaded.tokenizer, "chat", loaded.stop_ids)
    source = str(Path(os.environ["WHET_TEST_DATA"]) / "gsm8k" / "test.jsonl")

    def read(instruction: str | None) -> list[Any]:
        opened = open_source(
            Source(source=source, split="all", rows=num_rows, instruction=instruction), seed=0, base_folder=Path.cwd()
        )
        return list(number_ids(row for row in opened.read() if not isinstance(row, BadRow)))

    examples = [pair[i % 2] for i, pair in enumerate(zip(read(None), read(ASKED_FORM), strict=True))]
    path.parent.mkdir(exist_ok=True)
    # renamed when whole: a file that is there is read, not written again
    draft = path.with_suffix(".part")
    with draft.open("w", encoding="utf-8") as file:
        for start in range(0, len(examples), 32):
            part = examples[start : start + 32]
            answers = write(
                part, templates.prompts(template, part), loaded, Decoding(max_new_tokens=160),
                stop_ids=template.end_ids,
            )  # fmt: skip
            for example, answer in zip(part, answers, strict=True):
                file.write(json.dumps({"id": example.id, "text": answer.text, "golds": list(example.golds)}) + "\n")
            print(f"{start + len(part)} of {len(examples)} answered", flush=True)
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generations", type=Path, nargs="*", default=[GENERATIONS])
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    if find_spec("lm_eval") is None:
        print("lm-eval is not installed (pip install 'whet[eval]'): nothing measured")
        return
    if not GENERATIONS.is_file() and GENERATIONS in arguments.generations:
        generate(GENERATIONS, arguments.rows)
    rows = [
        json.loads(line)
        for path in arguments.generations
        for line in path.read_text(encoding="utf-8").splitlines()
        if line
    ]
    found = study(rows)
    num_unexplained = 0
    for name, each in found.items():
        print(f"\n{name}, {len(rows)} rows")
        for what, count in (each["counts"] | each["reasons"]).items():
            print(f"  {count:5d}  {what}")
        for row in each["differing_rows"]:
            if row["reason"] == "UNEXPLAINED":
                num_unexplained += 1
                print(f"UNEXPLAINED {row}")
    write_result(
        "extraction_agreement",
        claim=__doc__.split("\n")[0].removeprefix("Claim: "),
        result={"rows": len(rows), "lm_eval": version("lm_eval"), "unexplained": num_unexplained, "filters": found},
        command="python benchmarks/extraction_agreement.py",
    )
    sys.exit(1 if num_unexplained else 0)


if __name__ == "__main__":
    main()
