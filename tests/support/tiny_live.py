"""An evaluation set that a tiny model answers while it trains, without a recipe or a folder."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import tiny_tokenizers
from tiny import IDENTITY
from torch import nn

from whet.data.templates import build_template
from whet.evaluation.live import LiveSet
from whet.evaluation.questions import render_questions
from whet.models.load import LoadedModel
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, layout_of
from whet.recipe.schema import Evaluate, MetricName, Parallel, Source
from whet.types import Example, Message

STOP_IDS = (0, 2)


def make_rows(golds: Sequence[str]) -> tuple[Example, ...]:
    """As many questions, of different lengths, as there are golds."""
    return tuple(
        Example(
            id=f"row-{n}",
            messages=(
                Message(role="user", content=f"{n} and {n + 1}?{' Think well.' * (7 * n % 5)}"),
                Message(role="assistant", content=gold, is_taught=True),
            ),
            task="plain_answer",
            golds=(gold,),
        )
        for n, gold in enumerate(golds)
    )


def make_live(
    model: nn.Module, examples: Sequence[Example], *, metrics: Sequence[MetricName] = ("exact_match", "stop_rate"),
    every: int = 1, max_new_tokens: int = 10, batch_rows: int = 3, env: Env | None = None, temperature: float = 0.0,
    prefix: str = "", precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    layout: Layout | None = None,
) -> LiveSet:  # fmt: skip
    """`examples` for `model`, which has whet's attention installed; numbers are named `prefix` and their metric."""
    tokenizer = tiny_tokenizers.build_chatml()
    loaded = LoadedModel(
        model=model, tokenizer=tokenizer, identity=IDENTITY, folder=Path(), stop_ids=STOP_IDS,
        compute_dtype=next(model.parameters()).dtype,
    )  # fmt: skip
    entry = Evaluate(
        name="rows", source=Source(source="rows.jsonl"), every=every, max_new_tokens=max_new_tokens,
        batch_rows=batch_rows, temperature=temperature,
    )  # fmt: skip
    template = build_template(tokenizer, "chat", STOP_IDS)
    return LiveSet(
        questions=render_questions(entry, examples, template, context=256, seed=0),
        names={f"{prefix}{metric}": metric for metric in metrics},
        every=every,
        loaded=loaded,
        template=template,
        precision=precision,
        layout=layout or layout_of(Parallel(), env or Env(), strategy="replicate"),
        progress=lambda _name, _num_done, _num_rows: None,
    )
