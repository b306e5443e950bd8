"""Generated problems of reasoning-gym: `reasoning-gym:TASK`, train and test disjoint by construction.

Every problem has a key: SHA-256 of what it is made from (its words, its numbers, its family; see
generated_rules.py), and the key alone decides the side: one bucket of five is test, four are train. So no seed,
no option and no number of rows can put one problem on both sides. Within a side each key occurs once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from whet.data.datasets import answer_line, math_answer
from whet.data.datasets.generated_rules import RULES, Entry, Rule
from whet.errors import DataError, RecipeError

PREFIX = "reasoning-gym:"
_NUM_BUCKETS = 5
_NUM_CANDIDATES = 200_000
_NUM_FRUITLESS_CANDIDATES = 5_000

# Tasks with more than one right answer whose scorer was read and neither runs nor parses the answer as code.
# The library's other scorers are not called: several evaluate what the model wrote (sympy, eval).
_OWN_SCORERS = frozenset({"palindrome_generation", "word_ladder"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedRow:
    """One problem with the answer to teach (worked steps, then `Answer: ...`)."""

    question: str
    answer: str
    gold: str
    origin: str
    key: str
    """SHA-256 of what the problem is made from"""


def extract(text: str) -> tuple[str, bool]:
    """The line behind the first `Answer:`, else the last line; and whether the marker was there."""
    answer = answer_line.find_answer(text)
    return (answer_line.find_last_line(text), False) if answer is None else (answer, True)


def is_correct(extracted: str, golds: tuple[str, ...], *, origin: str = "") -> bool:
    """Whether the extracted line gives a gold, in whatever words: a base model was never taught the form.

    A number counts when it is the last one of the line; a text when the line, or what stands behind its last colon,
    equals the gold (case, spacing and a final full stop aside). For tasks with several right answers the generator's
    own scorer decides; it finds the problem by `origin`.
    """
    if any(_gives(extracted, gold) for gold in golds):
        return True
    problem = re.fullmatch(rf"{PREFIX}(\w+) seed (\d+) index (\d+) options (\{{.*\}})", origin)
    if problem is None or problem[1] not in _OWN_SCORERS or len(extracted) > answer_line.MAX_CHARACTERS:
        return False
    task, seed, index, options = problem.groups()
    dataset = _open_dataset(task, int(seed), options)
    return bool(dataset.score_answer(extracted, dataset[int(index)]) == 1.0)


def _fold(text: str) -> str:
    text = re.sub(r"\s*,\s*", ", ", unicodedata.normalize("NFKC", text[: answer_line.MAX_CHARACTERS]))
    return " ".join(text.casefold().split()).rstrip(".").strip()


_BARE_NUMBER = re.compile(r"\$?-?\$?\d[\d,]*(\.\d+)?%?\.?", re.ASCII)


def _gives(extracted: str, gold: str) -> bool:
    if _BARE_NUMBER.fullmatch(gold):
        return math_answer.is_correct(math_answer.last_number(extracted), (math_answer.last_number(gold),))
    return _fold(gold) in (_fold(extracted), _fold(extracted.rpartition(":")[2]))


def generate_rows(
    task: str, *, split: Literal["train", "test"], start: int, stop: int, seed: int, options: dict[str, Any]
) -> list[GeneratedRow]:
    """Rows `start` to `stop` of one side of a task; the same for every call with the same arguments.

    Raises RecipeError for an unknown task or option, DataError if the options do not give that many problems.
    """
    rows: list[GeneratedRow] = []
    seen: set[str] = set()
    num_fruitless = 0
    for entry, origin in _generate_entries(task, seed, options):
        rule = RULES.get(task, Rule())
        key = _hash_parameters(task, rule, entry)
        side = "test" if int(key[:8], 16) % _NUM_BUCKETS == 0 else "train"
        if side != split or key in seen or not rule.is_sound(entry):
            num_fruitless += 1
            if num_fruitless == _NUM_FRUITLESS_CANDIDATES:
                break
            continue
        num_fruitless = 0
        seen.add(key)
        rows.append(_build_row(rule, entry, origin, key))
        if len(rows) == stop:
            return rows[start:]
    raise DataError(
        f"only {len(rows)} different {split} problems were found, {stop} are needed",
        where=PREFIX + task,
        mend="ask for fewer rows or widen the generator's options",
    )


def _hash_parameters(task: str, rule: Rule, entry: Entry) -> str:
    # folded like questions are compared, so that two spellings of one question share a key
    text = json.dumps([task, rule.parameters(entry)], ensure_ascii=False, default=str)
    return hashlib.sha256(" ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode()).hexdigest()


def _build_row(rule: Rule, entry: Entry, origin: str, key: str) -> GeneratedRow:
    gold = entry["answer"]
    if not isinstance(gold, str) or not gold.strip():
        raise RecipeError(
            "this task gives no written answer to teach", where=origin, mend="choose a task with one right answer"
        )
    separator = "\n" if "\n" in gold.strip() else " "
    worked = rule.work_out(entry)
    answer = f"{worked}\nAnswer:{separator}{gold.strip()}".lstrip()
    return GeneratedRow(question=entry["question"].strip(), answer=answer, gold=gold.strip(), origin=origin, key=key)


def _generate_entries(task: str, seed: int, options: dict[str, Any]) -> Iterator[tuple[Entry, str]]:
    options_text = json.dumps(options, sort_keys=True)
    # a hash, because the library draws item i from seed + i: neighbouring seeds would share nearly all items
    generator_seed = int(hashlib.sha256(f"{task}/{seed}".encode()).hexdigest()[:7], 16)
    dataset = _open_dataset(task, generator_seed, options_text)
    for index in range(_NUM_CANDIDATES):
        with _own_random_state(generator_seed + index):
            entry = dataset[index]
        yield entry, f"{PREFIX}{task} seed {generator_seed} index {index} options {options_text}"


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """A few generators draw from the global random state: give them a seeded one and put the old one back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@lru_cache(maxsize=8)
def _open_dataset(task: str, seed: int, options_text: str) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise RecipeError(
            "generated problems need reasoning-gym, which is not installed",
            where=PREFIX + task,
            mend="pip install 'whet[demo]'",
        ) from error
    if task not in DATASETS:
        near = difflib.get_close_matches(task, sorted(DATASETS), n=1) or ["chain_sum"]
        raise RecipeError("reasoning-gym has no such task", where=PREFIX + task, mend=f"did you mean {near[0]}?")
    options = json.loads(options_text)
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=_NUM_CANDIDATES, **options)
    except (AssertionError, TypeError, ValueError) as error:
        known = ", ".join(sorted(DATASETS[task][1].__dataclass_fields__))
        raise RecipeError(
            f"the generator refuses its options: {error}", where=PREFIX + task, mend=f"its options are {known}"
        ) from error
