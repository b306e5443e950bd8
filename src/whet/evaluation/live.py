"""A model's answers while it trains: the first rows of a set, written and judged by the code of `whet evaluate`.

The model answers as it is, its adapter attached: a merged copy would need the memory of a second model. Rows are dealt
to the ranks, scores are gathered as JSON, and every rank takes the same means over the same rows in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from whet.data.datasets import judge
from whet.data.pipeline import PreparedData
from whet.data.templates import Template
from whet.evaluation import scoring
from whet.evaluation.answers import PORTION_BATCHES, write
from whet.evaluation.likelihood import gold_likelihoods
from whet.evaluation.metrics import mean, need_likelihoods
from whet.evaluation.questions import Questions, render_questions
from whet.inference.engine import refuse_long_prompts
from whet.models.load import LoadedModel
from whet.parallel.mesh import Layout
from whet.parallel.reduce import gather_texts
from whet.recipe.measured import answered_in_training, measured_names
from whet.recipe.schema import Evaluate, MetricName, Recipe
from whet.tracking.samples import NUM_ROWS, Shown
from whet.types import Example, Generation, Judgement

Progress = Callable[[str, int, int], None]
"""told (set, rows answered, rows to answer)"""


Show = Callable[[Sequence[Shown]], None]
"""told the answers to the first rows of a set that this rank has; the same rows every time"""


def _quiet(_what: object) -> None:
    """For those who need not hear of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSet:
    """One evaluation set that the model in training answers."""

    questions: Questions
    """the rows to answer: as many as the recipe allows in training"""
    names: dict[str, MetricName]
    """name that a number is logged under -> its metric"""
    every: int
    """optimizer steps between answers"""
    loaded: LoadedModel
    template: Template
    precision: Callable[[], AbstractContextManager[object]]
    """the number format that the training forward pass runs in"""
    layout: Layout
    """which rows this rank answers"""
    progress: Progress
    show: Show = _quiet

    def measure(self, on_shortage: Callable[[str], None] = _quiet) -> dict[str, float]:
        """The mean of each metric by its name, the same on all ranks; without those that no row has a score for.

        Weights, gradients and random states stay as they are, and the model goes back to the mode it was in.
        `on_shortage` is told, on all ranks, what they did when one ran out of memory and went on with fewer rows.
        """
        with _left_as_it_was(self.loaded.model), self.precision():
            scores, num_shortages = self._answer_all()
        if num_shortages:
            on_shortage(f"{self.questions.name} was answered")
        means = {metric: mean(scores[metric]) for metric in scores}
        return {name: value for name, metric in self.names.items() if (value := means[metric]) is not None}

    @property
    def _metrics(self) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys(self.names.values()))

    def _answer_all(self) -> tuple[dict[str, list[float | None]], int]:
        """All ranks' scores in the order of the rows, and how often memory ran out.

        Ranks meet after each portion, so that none waits for long.
        """
        whole: dict[str, list[float | None]] = {metric: [] for metric in self._metrics}
        num_ranks, num_rows = self.layout.num_data_ranks, len(self.questions)
        portion = num_ranks * PORTION_BATCHES * self.questions.decoding.batch_rows
        num_shortages = 0
        for start in range(0, num_rows, portion):
            rows = range(start, min(num_rows, start + portion))
            shortages: list[int] = []
            own = self._score(rows[self.layout.data_rank :: num_ranks], num_before=start, shortages=shortages)
            # ranks that share each layer have answered the same rows
            texts = gather_texts(json.dumps([own, len(shortages)]))[:: self.layout.num_tensor_ranks]
            of_ranks, counts = zip(*map(json.loads, texts), strict=True)
            num_shortages += sum(counts)
            for metric, scores in whole.items():
                scores += [of_ranks[row % num_ranks][metric][row // num_ranks] for row in range(len(rows))]
        return whole, num_shortages

    def _score(self, rows: Sequence[int], *, num_before: int, shortages: list[int]) -> scoring.Scores:
        """This rank's answers to `rows`, judged and scored; how many rows fitted is added to `shortages`."""
        examples = [self.questions.examples[row] for row in rows]
        generations = write(
            examples,
            [self.questions.prompts[row] for row in rows],
            self.loaded,
            self.questions.decoding,
            stop_ids=self.questions.stop_ids,
            may_halve=self.layout.num_tensor_ranks == 1,
            on_fewer_rows=shortages.append,
            progress=lambda num_done: self.progress(
                self.questions.name, num_before + num_done * self.layout.num_data_ranks, len(self.questions)
            ),
        )
        judgements = [judge(example, each.text) for example, each in zip(examples, generations, strict=True)]
        if num_before == 0:
            triples = zip(examples, generations, judgements, strict=True)
            self.show([_shown(self.questions.name, *each) for each in islice(triples, NUM_ROWS)])
        likelihoods = None
        if need_likelihoods(self.names.values()):
            likelihoods = gold_likelihoods(
                self.loaded, self.template, examples, may_halve=self.layout.num_tensor_ranks == 1
            )
        answered = scoring.answered_rows(examples, generations, judgements, likelihoods)
        return scoring.score_rows(self._metrics, answered)


def live_sets(
    recipe: Recipe,
    data: PreparedData,
    loaded: LoadedModel,
    *,
    precision: Callable[[], AbstractContextManager[object]],
    layout: Layout,
    progress: Progress = lambda _name, _num_done, _num_rows: None,
    show: Show = _quiet,
) -> tuple[LiveSet, ...]:
    """What the recipe wants answered in training. RecipeError or HubError where a metric lacks what it needs.

    `max_seconds` of a set is for its answers after training: how many rows a clock allows must not decide what is best.
    """
    named = measured_names(recipe)
    live = answered_in_training(recipe)
    scoring.require(live)
    return tuple(
        LiveSet(
            questions=_ask(entry, data, loaded, seed=recipe.seed),
            names={name: what.metric for name, what in named.items() if what.dataset == entry.name},
            every=entry.every or 0,
            loaded=loaded,
            template=data.template,
            precision=precision,
            layout=layout,
            progress=progress,
            show=show,
        )
        for entry in live
    )


def _shown(name: str, example: Example, generation: Generation, judgement: Judgement) -> Shown:
    asked = [message.content for message in example.messages if message.role == "user"]
    return Shown(
        set=name,
        id=example.id,
        prompt=asked[-1] if asked else "",
        text=generation.text,
        golds=example.golds,
        is_correct=judgement.is_correct,
        was_cut=generation.stopped == "length",
    )


def _ask(entry: Evaluate, data: PreparedData, loaded: LoadedModel, *, seed: int) -> Questions:
    """The first rows of a set; DataError now, not in the middle of a run, where the model cannot read one."""
    context = int(loaded.model.config.max_position_embeddings)
    first = data.evaluate[entry.name][: entry.max_rows]
    questions = render_questions(entry, first, data.template, context=context, seed=seed)
    refuse_long_prompts(questions.prompts, [example.id for example in questions.examples], questions.decoding)
    return questions


@contextmanager
def _left_as_it_was(model: torch.nn.Module) -> Iterator[None]:
    """Afterwards the mode of before, and torch's random state.

    What answers and measures goes into evaluation mode by itself and draws nothing, but a metric's encoder may draw
    when its layers are made.
    """
    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            model.train(was_training)
