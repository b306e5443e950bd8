"""The two sides of a comparison, each one report or one per seed, and the refusal to compare what is not alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import RecipeError
from whet.evaluation.seeds import Scores
from whet.types import EvalReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Who is compared: one model, or the runs of one recipe with several seeds."""

    name: str
    reports: tuple[EvalReport, ...]
    """one per seed, all on the same rows"""
    is_trained: bool = True
    """False: the model before tuning, which has no seed"""

    @property
    def num_rows(self) -> int:
        return len(self.reports[0].judgements)

    @property
    def ids(self) -> list[str]:
        return [judgement.example_id for judgement in self.reports[0].judgements]

    @property
    def is_one(self) -> bool:
        return len(self.reports) == 1

    def scores(self, metric: str) -> Scores:
        """Scores of every run under one metric that all have."""
        return [scores_of(report)[metric] for report in self.reports]

    def right(self) -> Scores:
        """1 where an answer was judged right, whatever the metrics."""
        return [[float(judgement.is_correct) for judgement in report.judgements] for report in self.reports]

    def rate(self, num_of: Sequence[int]) -> float:
        """Share of rows, `num_of` counted for each run, as a mean over the runs."""
        return sum(num_of) / (len(num_of) * max(1, self.num_rows))

    def num_formatted(self) -> list[int]:
        return [sum(judgement.has_format for judgement in report.judgements) for report in self.reports]

    def num_stopped(self) -> list[int]:
        return [sum(generation.stopped != "length" for generation in report.generations) for report in self.reports]


def scores_of(report: EvalReport) -> dict[str, tuple[float | None, ...]]:
    """Metric -> scores; a report without scores has what was judged right."""
    if report.scores:
        return report.scores
    return {"answer_accuracy": tuple(float(judgement.is_correct) for judgement in report.judgements)}


def shared_metrics(base: Side, tuned: Side) -> tuple[list[str], list[str]]:
    """Metrics that every report has, the primary one first, and those that only some have.

    RecipeError where the reports rest on different primary metrics.
    """
    reports = (*base.reports, *tuned.reports)
    primary = next(iter(scores_of(reports[0])))
    for side in (base, tuned):
        for report in side.reports:
            if (other := next(iter(scores_of(report)))) != primary:
                raise refusal(f"the primary metric differs: {base.name} has {primary!r}, {side.name} has {other!r}")
    every = dict.fromkeys(name for report in reports for name in scores_of(report))
    shared = [name for name in every if all(name in scores_of(report) for report in reports)]
    return shared, [name for name in every if name not in shared]


def seen_in_training(base: Side, tuned: Side) -> tuple[str, ...]:
    """Ids of the rows that any of the compared models may know, in the order of the rows."""
    seen = {id for report in (*base.reports, *tuned.reports) for id in report.seen_in_training}
    return tuple(id for id in base.ids if id in seen)


def refuse_unlike(base: Side, tuned: Side) -> None:
    """RecipeError names the first field in which a report is not comparable with the first one."""
    first = base.reports[0]
    if not first.judgements:
        raise refusal("no rows were judged")
    for side in (base, tuned):
        for report in side.reports:
            _refuse_unlike_reports(first, report, base.name, side.name)
        known: set[str] = set()
        for report in side.reports:
            if report.weights and report.weights in known:
                raise refusal(
                    f"two of the runs of {side.name} have the same weights, so they are one seed counted twice",
                    mend="name each run once",
                )
            known.add(report.weights)


def _refuse_unlike_reports(base: EvalReport, other: EvalReport, first: str, label: str) -> None:
    for name in ("dataset", "decoding", "rows_fingerprint"):
        ours, theirs = getattr(base, name), getattr(other, name)
        if ours != theirs:
            raise refusal(f"{name} differs: {first} has {ours!r}, {label} has {theirs!r}")
    ids = [judgement.example_id for judgement in base.judgements]
    for what, rows in (("judgements", other.judgements), ("generations", other.generations)):
        _refuse_unlike_ids(ids, [row.example_id for row in rows], first, f"{label} {what}")
    for b, t in zip(base.judgements, other.judgements, strict=True):
        if b.golds != t.golds:
            raise refusal(f"golds differ for {b.example_id!r}: {first} {b.golds!r}, {label} {t.golds!r}")
    for metric, scores in scores_of(other).items():
        if len(scores) != len(ids):
            raise refusal(f"{label} has {len(scores)} scores of {metric} for {len(ids)} rows")


def _refuse_unlike_ids(ids: list[str], others: list[str], first: str, label: str) -> None:
    if others == ids:
        return
    if len(others) != len(ids):
        raise refusal(f"example ids differ: {first} judged {len(ids)} rows, {label} are {len(others)}")
    at = next(i for i, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b)
    raise refusal(f"example ids differ at row {at + 1}: {first} judged {ids[at]!r}, {label} have {others[at]!r}")


def refusal(
    difference: str,
    *,
    mend: str = "evaluate both again with one recipe: the same rows, prompt and decoding settings",
) -> RecipeError:
    """What is raised where two sides are not alike."""
    return RecipeError(f"these answers cannot be compared row by row: {difference}", mend=mend)
