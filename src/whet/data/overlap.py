"""What evaluation rows share with training rows, for people to look at: whole questions, or n words in a row.

Two rows ask the same when their questions read the same (white space, case and Unicode forms aside) or when they were
made from the same thing: the same bare question under another instruction, the same words or numbers of a generated
problem. Such rows are refused or left out before training (data/account.py); shared n-grams are only counted. GSM8K:
none of the 1,319 test questions is a training question, 80 share an 8-gram with one, 3 a 13-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from whet.data.ngrams import NgramCounter, NgramTable
from whet.data.row_keys import parameters_key, question_key
from whet.inspection import NgramOverlap, OverlapPair, OverlapReport
from whet.types import Example

_NUM_LISTED = 5
_NGRAM_SIZES = (13, 8)
_NGRAM_OF_SEEN = 13
_BOILERPLATE_SHARE = 0.01
_MIN_BOILERPLATE_ROWS = 4
_CHUNK_ROWS = 2048


def report_overlap(train: Iterable[Example], evaluate: Mapping[str, Sequence[Example]]) -> dict[str, OverlapReport]:
    """What each evaluation set shares with the training rows, which are read once and not kept."""
    return _count(train, evaluate).report()


def find_seen_rows(train: Iterable[Example], evaluate: Mapping[str, Sequence[Example]]) -> dict[str, tuple[str, ...]]:
    """Ids of the rows of each evaluation set that the training rows, read once and not kept, have shown."""
    return _count(train, evaluate).seen_rows()


def _count(train: Iterable[Example], evaluate: Mapping[str, Sequence[Example]]) -> OverlapCounter:
    counter = OverlapCounter(evaluate)
    stream = iter(train)
    while chunk := list(islice(stream, _CHUNK_ROWS)):
        counter.add(chunk)
    return counter


class OverlapCounter:
    """`report_overlap` for training rows that come by in chunks, on their way to somewhere else.

    n-grams are of the words of the questions, without case and punctuation (data/ngrams.py). One that stands in more
    than 1 % of the training rows, and in more than 4 of them, is boilerplate, such as an instruction, and set aside;
    so are those that overlap with one, such as the end of a fixed sentence with the number that follows it.
    """

    def __init__(self, evaluate: Mapping[str, Sequence[Example]]) -> None:
        self._evaluate = evaluate
        examples = [example for rows in evaluate.values() for example in rows]
        self._twins = _Twins(examples)
        self._ngrams = NgramCounter([_question(example) for example in examples], _NGRAM_SIZES)
        self._num_train_rows = 0

    def add(self, train: Sequence[Example]) -> None:
        """Count some more training rows; chunks of some 1,000 rows are fastest."""
        self._num_train_rows += len(train)
        self._twins.add(train)
        self._ngrams.add([_question(example) for example in train], [example.origin for example in train])

    def report(self) -> dict[str, OverlapReport]:
        """By the name of the evaluation set, over all training rows so far."""
        shared = {n: _Shared(self._ngrams, table, self._most_rows) for n, table in self._ngrams.tables.items()}
        reports, start = {}, 0
        for name, rows in self._evaluate.items():
            numbers = range(start, start + len(rows))
            start = numbers.stop
            reports[name] = _report_set(rows, numbers, self._num_train_rows, self._twins, shared)
        return reports

    def seen_rows(self) -> dict[str, tuple[str, ...]]:
        """Ids of the evaluation rows that training rows have shown, by set: the same question, made from the same
        thing, or 13 words in a row beyond boilerplate (a shared 8-gram says little: 80 of GSM8K's test rows)."""
        shared = _Shared(self._ngrams, self._ngrams.tables[_NGRAM_OF_SEEN], self._most_rows)
        seen, number = {}, 0
        for name, rows in self._evaluate.items():
            is_seen = [
                self._twins.find(example) is not None or bool(shared.rows(range(place, place + 1)))
                for place, example in enumerate(rows, start=number)
            ]
            seen[name] = tuple(example.id for example, was_seen in zip(rows, is_seen, strict=True) if was_seen)
            number += len(rows)
        return seen

    @property
    def _most_rows(self) -> float:
        """Training rows with an n-gram from which on it is boilerplate."""
        return max(_MIN_BOILERPLATE_ROWS, _BOILERPLATE_SHARE * self._num_train_rows)


class _Twins:
    """Training rows that ask the question of an evaluation row, or are made from the same thing."""

    def __init__(self, evaluate: Sequence[Example]) -> None:
        self._questions: dict[int, str | None] = {question_key(example): None for example in evaluate}
        self._parameters: dict[int, str | None] = {parameters_key(example): None for example in evaluate}

    def add(self, train: Sequence[Example]) -> None:
        for example in train:
            keys = (self._questions, question_key(example)), (self._parameters, parameters_key(example))
            for known, key in keys:
                if key in known and known[key] is None:
                    known[key] = example.origin

    def find(self, example: Example) -> tuple[str, str] | None:
        """(kind, origin) of the first training row like `example`."""
        if (origin := self._questions[question_key(example)]) is not None:
            return "same question", origin
        if example.parameters and (origin := self._parameters[parameters_key(example)]) is not None:
            # rows that are not generated carry the hash of the bare question here
            return ("same parameters" if example.task == "generated" else "same question"), origin
        return None


class _Shared:
    """The n-grams of one table that evaluation and training rows share, boilerplate set aside."""

    def __init__(self, counter: NgramCounter, table: NgramTable, most_rows: float) -> None:
        self._counter, self._table = counter, table
        frequency = table.frequency[table.key_of]
        self._is_boilerplate = frequency > most_rows
        places = np.flatnonzero((frequency > 0) & ~self._touches_boilerplate(len(counter.ids)))
        rows, first = np.unique(table.rows[places], return_index=True)
        self._first = dict(zip(rows.tolist(), places[first].tolist(), strict=True))
        """evaluation row -> place of its first shared n-gram"""

    def _touches_boilerplate(self, num_words: int) -> np.ndarray:
        """bool per n-gram: whether one of its words stands in an n-gram that is boilerplate."""
        starts, n = self._table.starts, self._table.n
        borders = np.zeros(num_words + 1, dtype=np.int64)
        np.add.at(borders, starts[self._is_boilerplate], 1)
        np.add.at(borders, starts[self._is_boilerplate] + n, -1)
        num_before = np.concatenate([[0], np.cumsum(np.cumsum(borders[:-1]) > 0)])
        return num_before[starts + n] > num_before[starts]

    def rows(self, numbers: range) -> list[int]:
        return [number for number in numbers if number in self._first]

    def num_boilerplate(self, numbers: range) -> int:
        is_here = (self._table.rows >= numbers.start) & (self._table.rows < numbers.stop)
        return len(np.unique(self._table.key_of[is_here & self._is_boilerplate]))

    def first(self, number: int) -> tuple[str, str]:
        """(origin of the training row, n-gram) that evaluation row `number` shares first."""
        place = self._first[number]
        words = self._counter.words(int(self._table.starts[place]), self._table.n)
        return self._table.first_name[int(self._table.key_of[place])], words


def _report_set(
    examples: Sequence[Example], numbers: range, num_train_rows: int, twins: _Twins, shared: Mapping[int, _Shared]
) -> OverlapReport:
    found: dict[str, list[OverlapPair]] = {"same question": [], "same parameters": []}
    listed = set()
    for number, example in zip(numbers, examples, strict=True):
        if twin := twins.find(example):
            found[twin[0]].append(OverlapPair(eval_origin=example.origin, train_origin=twin[1], kind=twin[0]))
            listed.add(number)
    for n, each in shared.items():
        pairs = found[f"{n}-gram"] = []
        for number in each.rows(numbers):
            if number not in listed:
                origin, words = each.first(number)
                eval_origin = examples[number - numbers.start].origin
                pairs.append(OverlapPair(eval_origin=eval_origin, train_origin=origin, kind=f"{n}-gram", shared=words))
                listed.add(number)
    is_generated = any(example.task == "generated" for example in examples)
    return OverlapReport(
        num_rows=len(examples),
        num_train_rows=num_train_rows,
        num_exact=len(found["same question"]),
        num_same_parameters=len(found["same parameters"]) if is_generated else None,
        ngrams=tuple(
            NgramOverlap(n=n, num_rows=len(each.rows(numbers)), num_boilerplate=each.num_boilerplate(numbers))
            for n, each in sorted(shared.items())
        ),
        pairs=tuple(pair for kind in found.values() for pair in kind[:_NUM_LISTED]),
    )


def _question(example: Example) -> str:
    """Everything the users said (of a bare text: what it says); a blank line keeps turns apart."""
    asked = [message.content for message in example.messages if message.role == "user"]
    return "\n\n".join(asked or [message.content for message in example.messages])
