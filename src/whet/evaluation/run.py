"""Base against tuned on the recipe's held-out rows: same prompts, same path, same decoding, one model in memory.

The base answers first; then the adapter is merged into the same weights (float32, cast once) or, for a full
fine-tuning, the trained weights are loaded, and the same code answers again. Answers are kept as they are made
(journal.py) and used again under the same key (questions.py); what is judged and scored is computed anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whet import cache
from whet.data.pipeline import PreparedData, prepare
from whet.errors import RecipeError, StorageError
from whet.evaluation import answer_cache, metrics, nemo_rows, scoring
from whet.evaluation.answers import answer_rest, judge_again
from whet.evaluation.compare import compare
from whet.evaluation.gold_answers import GoldAnswers
from whet.evaluation.journal import Answers, Journal
from whet.evaluation.likelihood import GoldLikelihood, gold_likelihoods
from whet.evaluation.questions import AnswerKey, Questions, answer_key, render_questions
from whet.evaluation.seen_rows import seen_rows
from whet.evaluation.store import read_eval_report, write_comparison, write_eval_report
from whet.evaluation.time_box import TimeBox
from whet.evaluation.vllm_writer import VllmWriter
from whet.evaluation.writers import LeadingWriter, OwnWriter, Writer, follow
from whet.inference.tuned import final_weights, name_final_weights
from whet.inference.vllm_backend import require_vllm
from whet.kernels import attention
from whet.models.adapters import ADAPTER_CONFIG
from whet.models.load import LoadedModel, load_pretrained
from whet.parallel.env import choose_device, read_env
from whet.parallel.team import Team, joined
from whet.recipe import load_recipe
from whet.recipe.schema import Evaluate, Recipe
from whet.types import Comparison, EvalReport, Generation

__all__ = ["EvaluateOptions", "evaluate_run"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What an evaluation may be asked for besides its recipe."""

    fresh: bool = False
    """answer again even where answers are stored or kept"""
    max_seconds: float | None = None
    """time for everything, loading included: base and tuned answer the same first rows of each set that fit (and at
    least 8 each)"""
    max_rows: int | None = None
    """most rows of each set, the first ones"""
    backend: Literal["whet", "vllm"] = "whet"
    """what writes the answers: whet's own engine, or vLLM (extra `vllm`)"""
    base_only: bool = False
    """answer with the base alone: nothing is compared, and the run needs no final weights"""
    nemo_rows: Path | None = None
    """file for NeMo's rows of {input, label, prediction}: tuned's; base's beside it as NAME.base"""
    progress: Callable[[str, int, int], None] = lambda _what, _num_done, _num_rows: None
    """told (set and model, rows answered, rows of the set) at every row"""


def evaluate_run(
    run_folder: Path, *, say: Say, fresh: bool = False, options: EvaluateOptions | None = None
) -> list[Comparison]:
    """Answer every evaluation set of the run with base and tuned, judge, score, compare, and store all of it.

    Answers that are there already under the same key (weights, rows, decoding, code) are used again unless `fresh`:
    the run's own, those of an evaluation that was cut short, and for the base those of any other run. Raises
    StorageError when the run has no final weights yet; RecipeError or HubError, before a model is loaded, when a
    metric lacks a library or its encoder.
    """
    options = replace(options or EvaluateOptions(), fresh=fresh or (options is not None and options.fresh))
    recipe = load_recipe(run_folder / "recipe.yaml")
    if not options.base_only:
        final_weights(run_folder)
    scoring.require(recipe.evaluate)
    env = read_env()
    if options.backend == "vllm":
        require_vllm()
        if env.world_size > 1:
            raise RecipeError("vLLM spreads its work by itself", where="--backend vllm", mend="start one process")
    device = choose_device(recipe.train.device, env)
    with joined(env, device, timeout_seconds=recipe.parallel.timeout_seconds, folder=run_folder) as team:
        if not env.is_main:
            _follow(recipe, team)
            return []
        with cache.one_writer(_answers_folder(run_folder) / "answers.lock"):
            return _Evaluation(run_folder, recipe, options, say, team).compare_all()


def _follow(recipe: Recipe, team: Team) -> None:
    """What every rank but the first does: load the same model and write its share of the answers."""
    loaded = load_pretrained(recipe.model, device=choose_device(recipe.train.device, team.env))
    attention.install(loaded.model)
    data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd())
    sets = _render_sets(recipe, data, loaded)
    follow(OwnWriter(loaded), team, {questions.name: questions for questions in sets})


def _answers_folder(run_folder: Path) -> Path:
    folder = run_folder / "evaluations"
    try:
        folder.mkdir(exist_ok=True)
        is_writable, why = os.access(folder, os.W_OK), "it may not be written to"
    except OSError as error:
        is_writable, why = False, error.strerror or str(error)
    if not is_writable:
        raise StorageError(
            f"answers cannot be kept here: {why}",
            where=str(folder),
            mend="evaluate a copy of the run in a folder that you may write to",
        )
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """What one model answered to one set: its first rows, all of them where time was not limited."""

    model: str
    key: AnswerKey
    journal: Journal
    answers: Answers
    likelihoods: list[GoldLikelihood | None] | None
    """of the gold answers of the same rows; None where no metric asks for them"""


class _Evaluation:
    """One model in memory: the base until `take_tuned`, the tuned one from then on. Of several ranks, the leader's."""

    def __init__(
        self, run_folder: Path, recipe: Recipe, options: EvaluateOptions, say: Say, team: Team
    ) -> None:  # fmt: skip
        self._run_folder, self._recipe, self._options, self._say = run_folder, recipe, options, say
        self._started = time.monotonic()
        # beside vLLM, which holds the GPU's memory, the model waits where gold answers can still be measured
        device = "cpu" if options.backend == "vllm" else recipe.train.device
        self._loaded = load_pretrained(recipe.model, device=choose_device(device, team.env))
        attention.install(self._loaded.model)
        self._data = prepare(recipe, self._loaded.tokenizer, end_ids=self._loaded.stop_ids, base_folder=Path.cwd())
        self._sets = _render_sets(recipe, self._data, self._loaded)
        self._seen = {} if options.base_only else seen_rows(
            recipe, self._data, self._sets, folder=run_folder / "evaluations", base_folder=Path.cwd()
        )  # fmt: skip
        self._writer = self._choose_writer(team)
        self._ready = time.monotonic()

    def _choose_writer(self, team: Team) -> Writer:
        if self._options.backend == "vllm":
            tuned = None if self._options.base_only else self._run_folder
            room = self._run_folder / "evaluations" / ".for-vllm"
            return VllmWriter(self._recipe, self._loaded, tuned, room)
        own = OwnWriter(self._loaded)
        return LeadingWriter(own, team) if team.env.world_size > 1 else own

    def compare_all(self) -> list[Comparison]:
        try:
            answered = self._answer_all()
        finally:
            self._writer.end()
        return [self._compare(questions, base, tuned) for questions, base, tuned in answered]

    def _answer_all(self) -> list[tuple[Questions, _Answered, _Answered]]:
        """(set, base's answers, tuned's), none where only the base was asked for."""
        weights = _name_base(self._loaded)
        base = [
            self._answer("base", weights, questions, self._most_rows(questions), _Turn(0.5, number))
            for number, questions in enumerate(self._sets)
        ]
        if self._options.base_only:
            for questions, answered in zip(self._sets, base, strict=True):
                self._store(questions, answered, len(answered.answers))
            return []
        self._writer.take_tuned(self._run_folder)
        weights = f"{weights}, with {_name_tuned(self._run_folder)} merged"
        both = []
        for number, questions in enumerate(self._sets):
            num_rows = min(len(base[number].answers), self._most_rows(questions))
            tuned = self._answer("tuned", weights, questions, num_rows, _Turn(1.0, number))
            both.append((questions, base[number], tuned))
        return both

    def _most_rows(self, questions: Questions) -> int:
        return min(len(questions), self._options.max_rows or len(questions))

    def _box(self, turn: _Turn, entry: Evaluate, known: Answers) -> TimeBox:
        """The stricter one of two limits. The command line's: the time up to the turn's share of what loading left,
        dealt evenly to the sets that are still to come. The recipe's: for this model and set, what `known` answers
        took included, so that evaluating once more does not reach further."""
        now, deadlines = time.monotonic(), []
        if self._options.max_seconds is not None:
            left = max(0.0, self._started + self._options.max_seconds - self._ready)
            deadlines.append(now + (self._ready + turn.share * left - now) / (len(self._sets) - turn.number))
        spent = sum(generation.seconds for generation, _ in known)
        if entry.max_seconds is not None:
            deadlines.append(now + entry.max_seconds - spent)
        box = TimeBox(min(deadlines, default=None))
        if entry.max_seconds is not None and known:
            box.measured(len(known), spent)
        return box

    def _answer(self, model: str, weights: str, questions: Questions, num_rows: int, turn: _Turn) -> _Answered:
        key = answer_key(questions, weights, self._writer.name)
        journal = Journal(self._folder(questions), model, key)
        known = [] if self._options.fresh else self._known(model, key, questions, journal)
        if len(known) < num_rows:
            journal.begin(known)
        golds = self._golds(model, key, questions)
        answers = answer_rest(
            known, questions, self._writer, journal, box=self._box(turn, questions.entry, known), num_rows=num_rows,
            progress=lambda done, rows: self._options.progress(f"{questions.name}: {model}", done, rows),
            also=golds.reach if golds else lambda _num_answered: None,
        )  # fmt: skip
        likelihoods = golds.reach(len(answers)) if golds else None
        self._say(_describe(f"{questions.name}: {model}", questions, len(known), answers, num_asked=num_rows))
        if model == "base" and (golds or len(answers) > len(known)):
            self._share(key, answers, golds)
        return _Answered(model=model, key=key, journal=journal, answers=answers, likelihoods=likelihoods)

    def _golds(self, model: str, key: AnswerKey, questions: Questions) -> GoldAnswers | None:
        """The likelihoods of the set's gold answers, where a metric asks for them."""
        if not metrics.need_likelihoods(questions.entry.metrics):
            return None
        return GoldAnswers(
            self._folder(questions), model, key, questions.examples,
            lambda examples: gold_likelihoods(self._loaded, self._data.template, examples),
            fresh=self._options.fresh,
        )  # fmt: skip

    def _known(self, model: str, key: AnswerKey, questions: Questions, journal: Journal) -> Answers:
        """Answers under this key, judged now: of an evaluation that was cut short, from the run's own report, or for a
        base from the user's cache."""
        report = self._stored(model, key, questions)
        found: Sequence[Generation] = report.generations if report else ()
        found = max(found, [generation for generation, _ in journal.read()], key=len)
        if model == "base" and len(found) < len(questions):
            found = max(found, answer_cache.find_answers(key), key=len)
        return judge_again(found, questions, self._loaded)

    def _stored(self, model: str, key: AnswerKey, questions: Questions) -> EvalReport | None:
        folder = self._folder(questions)
        if not (folder / f"{model}.summary.json").is_file():
            return None
        try:
            report = read_eval_report(folder, model)
        except StorageError as error:
            self._say(f"{questions.name}: {model} is answered again: {error.where}: {error.what}")
            return None
        rows = questions.fingerprint(len(report.generations))
        is_ours = (report.weights, report.rows_fingerprint, report.decoding, report.code) == (
            key.weights, rows, key.decoding, key.code,
        )  # fmt: skip
        return report if is_ours else None

    def _share(self, key: AnswerKey, answers: Answers, golds: GoldAnswers | None) -> None:
        try:
            answer_cache.keep_answers(key, [generation for generation, _ in answers])
            if golds:
                golds.share()
        except StorageError as error:
            self._say(f"other runs cannot use these answers: {error.where}: {error.what}")

    def _compare(self, questions: Questions, base: _Answered, tuned: _Answered) -> Comparison:
        """Both on the rows that both answered."""
        num_rows = min(len(base.answers), len(tuned.answers), self._most_rows(questions))
        reports = [self._store(questions, answered, num_rows) for answered in (base, tuned)]
        comparison = compare(*reports, seed=self._recipe.seed)
        write_comparison(self._folder(questions), comparison)
        if self._options.nemo_rows is not None:
            self._write_nemo_rows(self._options.nemo_rows, questions, *reports)
        return comparison

    def _store(self, questions: Questions, answered: _Answered, num_rows: int) -> EvalReport:
        """The report over the first `num_rows`; answers that are not in it, or to which more may come, stay in the
        journal."""
        report = self._report(questions, answered, num_rows)
        if num_rows < len(questions):
            answered.journal.begin(answered.answers)
        stored = None if self._options.fresh else self._stored(answered.model, answered.key, questions)
        if stored != report:
            write_eval_report(self._folder(questions), report)
        if num_rows == len(questions):
            answered.journal.remove()
        return report

    def _report(self, questions: Questions, answered: _Answered, num_rows: int) -> EvalReport:
        examples = questions.examples[:num_rows]
        generations = tuple(generation for generation, _ in answered.answers[:num_rows])
        judgements = tuple(judgement for _, judgement in answered.answers[:num_rows])
        likelihoods = answered.likelihoods and answered.likelihoods[:num_rows]
        rows = scoring.answered_rows(examples, generations, judgements, likelihoods)
        categories = tuple(example.category for example in examples)
        seen = set() if answered.model == "base" else {*self._seen[questions.name]}
        return EvalReport(
            model=answered.model,
            dataset=questions.name,
            decoding=answered.key.decoding,
            rows_fingerprint=questions.fingerprint(num_rows),
            generations=generations,
            judgements=judgements,
            seconds=sum(generation.seconds for generation in generations),
            weights=answered.key.weights,
            code=answered.key.code,
            num_rows_of_set=len(questions),
            scores=scoring.score_rows(questions.entry.metrics, rows),
            figures=scoring.score_set(questions.entry.metrics, rows),
            categories=categories if any(categories) else (),
            seen_in_training=tuple(example.id for example in examples if example.id in seen),
            role=questions.entry.role,
        )

    def _write_nemo_rows(self, path: Path, questions: Questions, base: EvalReport, tuned: EvalReport) -> None:
        if len(self._sets) > 1:
            path = path.with_name(f"{path.stem}.{questions.name}{path.suffix}")
        examples = questions.examples[: len(tuned.generations)]
        for target, report in ((path, tuned), (path.with_name(f"{path.stem}.base{path.suffix}"), base)):
            rows = nemo_rows.nemo_rows(examples, report)
            nemo_rows.write_rows(target, rows)
            self._say(f"{questions.name}: NeMo's rows of {report.model} in {target}")
            self._say(f"  {nemo_rows.metric_line(rows)}")

    def _folder(self, questions: Questions) -> Path:
        return self._run_folder / "evaluations" / questions.name


@dataclass(frozen=True, slots=True)
class _Turn:
    """Whose turn it is under a time limit."""

    share: float
    """of the whole time, up to which this model may go on"""
    number: int
    """of the set, from 0"""


def _render_sets(recipe: Recipe, data: PreparedData, loaded: LoadedModel) -> list[Questions]:
    context = int(loaded.model.config.max_position_embeddings)
    return [
        render_questions(entry, data.evaluate[entry.name], data.template, context=context, seed=recipe.seed)
        for entry in recipe.evaluate
    ]


def _name_base(loaded: LoadedModel) -> str:
    """The weights and what else decides what they compute."""
    dtype = str(loaded.compute_dtype).removeprefix("torch.")
    config = cache.digest_of(loaded.folder / "config.json")[:16]
    return f"{loaded.identity.weights_sha256}, config {config}, {dtype} on {loaded.model.device.type}"


def _name_tuned(run_folder: Path) -> str:
    config = run_folder / ADAPTER_CONFIG
    scale = f" (config {cache.digest_of(config)[:16]})" if config.is_file() else ""
    return f"{name_final_weights(run_folder)}{scale}"


def _describe(who: str, questions: Questions, num_known: int, answers: Answers, *, num_asked: int) -> str:
    num_rows = len(answers)
    right = ""
    if "answer_accuracy" in questions.entry.metrics:
        right = f", {sum(judgement.is_correct for _, judgement in answers) / max(1, num_rows):.1%} right"
    if num_known >= num_rows:
        return f"{who} answered before{right}"
    new = [generation for generation, _ in answers[num_known:]]
    seconds = max(1e-9, sum(generation.seconds for generation in new))
    before = f", {num_known} rows before" if num_known else ""
    reached = "" if num_rows == len(questions) else f" of {len(questions)}"
    reached += ": the time was up" if num_rows < num_asked else ""
    return (
        f"{who} answered {len(new)} rows in {seconds:.0f} s "
        f"({sum(g.num_new_tokens for g in new) / seconds:.0f} tokens/s){before}{reached}{right}"
    )
