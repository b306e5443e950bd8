"""Who writes the answers to a stretch of a set: this process, or all ranks together under one that leads.

The leader alone plans, keeps, judges and speaks. The others hold the same model and the same questions, and write their
share of a stretch when they are told to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from whet.evaluation.answers import write
from whet.evaluation.questions import Questions
from whet.inference.tuned import load_tuned
from whet.models.load import LoadedModel
from whet.parallel.team import Team
from whet.types import Generation

Progress = Callable[[int], None]
"""told how many rows of the stretch are written"""


class Writer(Protocol):
    """Base until `take_tuned`, the tuned model from then on."""

    @property
    def name(self) -> str:
        """What stands beside the decoding in the answer key; empty for whet's own engine."""

    @property
    def num_at_once(self) -> int:
        """How many batches are written side by side."""

    def write(self, questions: Questions, rows: range, *, progress: Progress) -> tuple[Generation, ...]:
        """Answers to these rows of the set, in their order."""

    def take_tuned(self, folder: Path) -> None:
        """Answer as `folder` from now on."""

    def end(self) -> None:
        """Nothing more will be asked; may be said twice."""


class OwnWriter:
    """This process with whet's engine."""

    name = ""
    num_at_once = 1

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def write(self, questions: Questions, rows: range, *, progress: Progress) -> tuple[Generation, ...]:
        return write(
            [questions.examples[row] for row in rows],
            [questions.prompts[row] for row in rows],
            self._loaded,
            questions.decoding,
            stop_ids=questions.stop_ids,
            progress=progress,
        )

    def take_tuned(self, folder: Path) -> None:
        load_tuned(self._loaded, folder)

    def end(self) -> None:
        pass


class LeadingWriter:
    """All ranks; this one leads."""

    name = ""

    def __init__(self, own: OwnWriter, team: Team) -> None:
        self._own, self._team = own, team
        # while the others may be in the middle of something, no word reaches them
        self._can_speak = True

    @property
    def num_at_once(self) -> int:
        return self._team.env.world_size

    def write(self, questions: Questions, rows: range, *, progress: Progress) -> tuple[Generation, ...]:
        started = time.monotonic()
        self._team.tell(json.dumps({"do": "write", "set": questions.name, "rows": [rows.start, rows.stop]}))
        self._can_speak = False
        world = self._team.env.world_size
        shares = _write_share(self._own, questions, rows, self._team, lambda num_done: progress(num_done * world))
        self._can_speak = True
        seconds = (time.monotonic() - started) / len(rows)
        dealt = [replace(shares[place % world][place // world], seconds=seconds) for place in range(len(rows))]
        return tuple(dealt)

    def take_tuned(self, folder: Path) -> None:
        self._team.tell(json.dumps({"do": "take_tuned", "folder": str(folder)}))
        self._own.take_tuned(folder)

    def end(self) -> None:
        if self._can_speak:
            self._can_speak = False
            self._team.tell(json.dumps({"do": "end"}))


def follow(own: OwnWriter, team: Team, sets: Mapping[str, Questions]) -> None:
    """Do what the leader says until it ends. PeerLostError when it is gone."""
    while True:
        word = json.loads(team.hear())
        if word["do"] == "end":
            return
        if word["do"] == "take_tuned":
            own.take_tuned(Path(word["folder"]))
        else:
            _write_share(own, sets[word["set"]], range(*word["rows"]), team, lambda _num_done: None)


def _write_share(
    own: OwnWriter, questions: Questions, rows: range, team: Team, progress: Progress
) -> list[list[Generation]]:
    """Every rank's answers to its own rows of the stretch, on every rank: the rows are dealt like cards."""
    mine = own.write(questions, rows[team.env.rank :: team.env.world_size], progress=progress)
    texts = team.gather(json.dumps([asdict(generation) for generation in mine]))
    return [[Generation(**fields) for fields in json.loads(text)] for text in texts]
