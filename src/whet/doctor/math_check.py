"""All laws of `whet doctor --math`, one after the other, while two processes make the step of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from whet.doctor import math_laws
from whet.doctor.law import Law
from whet.doctor.math_ranks import Ranks
from whet.doctor.small_problem import FirstRows, Problem, read_first_rows, shrink
from whet.recipe.schema import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of it."""

    laws: tuple[Law, ...]
    problem: str
    """what they were tried on, in words"""
    seconds: float

    @property
    def is_sound(self) -> bool:
        return all(law.is_kept for law in self.laws)


def try_laws(recipe: Recipe, *, with_ranks: bool = True) -> Tried:
    """Every law on `recipe`; errors of reading its rows and finding its base. `with_ranks`: start two processes too."""
    started = time.monotonic()
    torch.set_num_threads(1)  # the two others need the cores too
    rows, config = read_first_rows(recipe)
    problem = shrink(recipe, rows, config)
    with TemporaryDirectory() as folder:
        if with_ranks:
            with Ranks(problem, Path(folder)) as ranks:
                first, outcome = math_laws.one_gradient(problem)
                others = [law() for law in _alone(problem, rows)]
                laws = [first, math_laws.two_ranks(outcome, ranks.outcome()), *others]
        else:
            first, _ = math_laws.one_gradient(problem)
            laws = [first, *(law() for law in _alone(problem, rows))]
    num_tokens = sum(sample.num_tokens for sample in problem.samples)
    adapter = recipe.adapter
    method = "all weights" if adapter.method == "none" else f"{adapter.method} ({adapter.init} start)"
    return Tried(
        laws=tuple(laws),
        problem=f"{len(problem.samples)} of the first rows ({num_tokens} tokens), 2 layers, hidden 64, float64, "
        f"{method}",
        seconds=time.monotonic() - started,
    )


def _alone(problem: Problem, rows: FirstRows) -> Iterator[Callable[[], Law]]:
    """The laws that one process tries."""
    yield partial(math_laws.packed_is_separate, problem)
    yield partial(math_laws.edits_stay_inside, problem)
    yield partial(math_laws.labels_are_answers, problem, rows)
    yield partial(math_laws.merged_is_live, problem)
    yield partial(math_laws.saved_is_loaded, problem)
    yield partial(math_laws.batched_is_single, problem)
    yield partial(math_laws.resumed_is_not_stopped, problem)
