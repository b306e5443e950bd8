"""A first recipe for somebody's rows: from a few answers to a commented YAML file. Pure; nothing is read or measured.

The numbers that are chosen here: the demo's adapter and learning rate (README, "The demo, seed by seed") for small
models, the usual 2e-4 for large ones; passes over the rows so that about a hundred steps are made; the time divided
between training and answering. Everything is written out, so that it can be changed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from whet.recipe.schema import MetricName
from whet.recipe.yaml_tree import PlainDumper

AnswerKind = Literal["number", "choice", "short", "long", "formula"]
KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)

MEANINGS: dict[AnswerKind, str] = {
    "number": "numbers, alone or at the end of a solution, judged as right or wrong",
    "choice": "one of a few fixed texts, such as labels, judged as right or wrong",
    "short": "a few words, right where they are the same; shared words are counted too",
    "long": "sentences, judged by the words they share with the given answer, and by its loss",
    "formula": "formulas as in MATH, judged as right or wrong by their value",
}

METRICS: dict[AnswerKind, tuple[MetricName, ...]] = {
    "number": ("answer_accuracy", "stop_rate"),
    "choice": ("answer_accuracy", "stop_rate"),
    "short": ("answer_accuracy", "token_f1", "stop_rate"),
    "long": ("token_f1", "loss", "answer_length", "stop_rate"),
    "formula": ("answer_accuracy", "stop_rate"),
}
"""The first is the primary one; none of them needs anything installed."""

TRAINING_SHARE = 0.6
ANSWERING_SHARE = 0.15
"""of the time: training; the answers of base, and of tuned. The rest is for loading."""
BATCH = 8
_SAMPLES_TO_SEE = 800
_EPOCHS = (3, 10)
_RATES = ((500_000_000, 1e-3), (3_000_000_000, 5e-4))
_LARGE_RATE = 2e-4
_PLAIN_PROMPT = "Question: {question}\n\nAnswer: "
_MOST_INSTRUCTION_CHARACTERS = 300
_TOKENS_BESIDE_THE_ROW = 128
"""a chat template's turns and its system message"""
_STEP_TOKENS = 128
_MOST_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """Where the rows of each set come from: keys of a recipe's sources."""

    train: Mapping[str, Any]
    validation: Mapping[str, Any]
    held_out: Mapping[str, Any]
    num_train: int | None
    """None: not known before they are fetched"""
    story: str
    """how the sets came about, in a sentence or two"""
    may_share_rows: bool = False
    """whether a held-out row may ask what a training row asks; it is then left out of the set"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked for, and what was seen."""

    name: str
    output: str
    seed: int
    minutes: float
    model_id: str
    num_parameters: int | None
    """None: not known before the model is fetched"""
    max_positions: int | None
    has_chat_template: bool
    sets: Sets
    kind: AnswerKind
    longest_row_bytes: int
    """question and answer in UTF-8; a byte-level tokenizer makes at most a token of each byte"""
    longest_answer_bytes: int
    choices: Sequence[str] = ()
    wants_bare_number: bool = False
    heading: Sequence[str] = ()
    """comment lines at the top of the file"""


def draft_recipe(wishes: Wishes) -> str:
    """The recipe as YAML with comments; `parse_recipe` accepts it."""
    heading = [f"# {line}".rstrip() for line in wishes.heading]
    return "\n".join([*heading, *_sections(wishes)]) + "\n"


def _sections(wishes: Wishes) -> Iterator[str]:
    yield _section({"version": 1, "name": wishes.name, "output": wishes.output, "seed": wishes.seed})
    yield _section({"model": {"id": wishes.model_id}})
    yield _section({"adapter": {"method": "lora", "rank": 16, "alpha": 32}})
    yield _section({"data": _data(wishes)}, comment=wishes.sets.story)
    yield _section({"batch": {"global_size": BATCH}})
    yield _section({"optim": {"lr": learning_rate(wishes.num_parameters), "warmup": 0.05}})
    yield _section({"train": _train(wishes)}, comment=_TIME.format(minutes=wishes.minutes))
    yield _section({"evaluate": [_evaluate(wishes)]}, comment=_judged(wishes.kind))


_TIME = (
    "{minutes:g} minutes: at most three fifths of them train, the rest loads and answers. The weights of the lowest "
    "validation loss are the result"
)


def _data(wishes: Wishes) -> dict[str, Any]:
    data: dict[str, Any] = {
        "train": [_source(wishes, wishes.sets.train)],
        "validation": [_source(wishes, wishes.sets.validation)],
    }
    if not wishes.has_chat_template:
        data |= {"template": "plain", "prompt": _PLAIN_PROMPT}
    length, may_be_longer = max_length(wishes.longest_row_bytes, wishes.max_positions)
    data["max_length"] = length
    if may_be_longer:
        data["over_length"] = "truncate_prompt"
    if wishes.sets.may_share_rows:
        data["shared_rows"] = "drop"
    return data


def _source(wishes: Wishes, source: Mapping[str, Any]) -> dict[str, Any]:
    instruction = asked_form(wishes.kind, wishes.choices, wants_bare_number=wishes.wants_bare_number)
    return {**source, **({"instruction": instruction} if instruction else {})}


def _train(wishes: Wishes) -> dict[str, Any]:
    return {
        "epochs": num_epochs(wishes.sets.num_train),
        "fit_seconds": round(60 * wishes.minutes * TRAINING_SHARE),
        "keep": 1,
        "final": "best",
    }


def _evaluate(wishes: Wishes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": wishes.name,
        "source": _source(wishes, wishes.sets.held_out),
        "max_new_tokens": max_new_tokens(wishes.longest_answer_bytes),
        "metrics": list(METRICS[wishes.kind]),
        "max_seconds": round(60 * wishes.minutes * ANSWERING_SHARE),
    }
    if wishes.kind == "formula":
        entry["judge"] = "math_verify"
    return entry


def _judged(kind: AnswerKind) -> str:
    return f"Answers are {MEANINGS[kind]}. The verdict rests on {METRICS[kind][0]}; base and tuned are asked alike"


def asked_form(kind: AnswerKind, choices: Sequence[str] = (), *, wants_bare_number: bool = False) -> str | None:
    """What base and tuned are told about the form of the answer, so that the base is not wrong for its form alone."""
    if kind == "number" and wants_bare_number:
        return "Answer with the number alone."
    listed = f"Answer with one of these and nothing else: {', '.join(choices)}"
    if kind == "choice" and choices and len(listed) <= _MOST_INSTRUCTION_CHARACTERS:
        return listed
    return None


def learning_rate(num_parameters: int | None) -> float:
    """By the size of the model; the smallest models were measured with 1e-3."""
    size = math.inf if num_parameters is None else num_parameters
    return next((rate for most, rate in _RATES if size < most), _LARGE_RATE)


def num_epochs(num_train: int | None) -> int:
    """3, or as many as show 800 samples where the rows are fewer, at most 10."""
    fewest, most = _EPOCHS
    return fewest if num_train is None else max(fewest, min(most, math.ceil(_SAMPLES_TO_SEE / max(1, num_train))))


def max_length(longest_row_bytes: int, max_positions: int | None) -> tuple[int, bool]:
    """(tokens that no row exceeds, False), or (the model's own limit, True) where a row may be longer."""
    enough = longest_row_bytes + _TOKENS_BESIDE_THE_ROW
    enough = math.ceil(enough / _STEP_TOKENS) * _STEP_TOKENS
    limit = max_positions or 4096
    return (enough, False) if enough <= limit else (limit, True)


def max_new_tokens(longest_answer_bytes: int) -> int:
    """Room for the longest answer at two bytes a token (English has four), at most 512."""
    return min(_MOST_NEW_TOKENS, max(16, math.ceil(longest_answer_bytes / 2 / 16) * 16))


class _IndentingDumper(PlainDumper):
    """Lists stand further in than their key, as in the recipes of the repository."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _section(content: Mapping[str, Any], *, comment: str = "") -> str:
    text = yaml.dump(dict(content), Dumper=_IndentingDumper, sort_keys=False, allow_unicode=True, width=100_000)
    return "".join(f"# {line}\n" for line in textwrap.wrap(comment, width=116)) + text.rstrip("\n")
