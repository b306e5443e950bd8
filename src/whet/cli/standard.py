"""Options of `whet evaluate` for standard benchmarks by other tools: what they take, and what is asked for by them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from whet.cli.output import say
from whet.errors import RecipeError

LmEvalTasks = Annotated[
    str | None,
    typer.Option(help="Also measure these tasks of lm-evaluation-harness on both models.", metavar="TASK,TASK"),
]
LmEvalFolder = Annotated[
    Path | None,
    typer.Option(help="With --lm-eval: folder with task files of your own (their code is run).", metavar="FOLDER"),
]
LmEvalLimit = Annotated[
    int | None, typer.Option(help="With --lm-eval: only the first rows of each task.", metavar="N", min=1)
]
LmEvalChat = Annotated[
    bool, typer.Option("--lm-eval-chat", help="With --lm-eval: write prompts as turns of the chat template.")
]
LmEvalPython = Annotated[
    str | None,
    typer.Option(help="Interpreter of the environment that lm-eval is installed in, if another.", metavar="PYTHON"),
]
NemoTasks = Annotated[
    str | None,
    typer.Option(
        help="Also measure these benchmarks of NVIDIA's NeMo Evaluator on served models.", metavar="TASK,TASK"
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(help="With --nemo-evaluator: where the models are served (vLLM, ...), up to /v1.", metavar="URL"),
]
EndpointModels = Annotated[
    str | None,
    typer.Option(help="With --nemo-evaluator: names that base and tuned are served under.", metavar="BASE,TUNED"),
]
BaseEndpoint = Annotated[
    str | None, typer.Option(help="With --nemo-evaluator: where the base is served, if elsewhere.", metavar="URL")
]
NemoLimit = Annotated[
    int | None, typer.Option(help="With --nemo-evaluator: only so many rows of each benchmark.", metavar="N", min=1)
]
NemoPython = Annotated[
    str | None,
    typer.Option(
        help="Interpreter of the environment that NeMo Evaluator is installed in, if another.", metavar="PYTHON"
    ),
]

Progress = Callable[[str, int, int], None]
Measurement = Callable[[Path, Progress], Path]
"""(run folder, progress) -> the results.json that it wrote"""


def ask_lm_eval(
    tasks: str | None, folder: Path | None, limit: int | None, is_chat: bool, python: str | None, *, fresh: bool
) -> list[Measurement]:
    """What `--lm-eval` asks for, checked: nothing else is done before it is known that it can be."""
    if tasks is None:
        _refuse_alone("--lm-eval", folder, limit, is_chat or None, python)
        return []
    from whet.evaluation.standard.lm_eval import LmEvalOptions, check_lm_eval, parse_tasks, run_lm_eval

    options = LmEvalOptions(
        tasks=parse_tasks(tasks),
        tasks_folder=folder,
        limit=limit,
        uses_chat_template=is_chat,
        fresh=fresh,
        python=python or sys.executable,
    )
    check_lm_eval(options)
    return [lambda run, progress: run_lm_eval(run, options, say=say, progress=progress)]


def ask_nemo_evaluator(
    tasks: str | None, endpoint: str | None, models: str | None, base_endpoint: str | None, limit: int | None,
    python: str | None,
) -> list[Measurement]:  # fmt: skip
    """What `--nemo-evaluator` asks for, checked."""
    if tasks is None:
        _refuse_alone("--nemo-evaluator", endpoint, models, base_endpoint, limit, python)
        return []
    if endpoint is None or models is None:
        raise RecipeError(
            "NeMo Evaluator measures models that are served",
            where="--nemo-evaluator",
            mend="serve base and tuned, then add --endpoint URL --endpoint-models BASE,TUNED",
        )
    from whet.evaluation.standard.nemo_evaluator import NemoOptions, check_nemo_evaluator, run_nemo_evaluator

    options = NemoOptions(
        tasks=tuple(dict.fromkeys(task.strip() for task in tasks.split(",") if task.strip())),
        endpoint=endpoint,
        models=tuple(name.strip() for name in models.split(",")),
        base_endpoint=base_endpoint,
        limit=limit,
        python=python or sys.executable,
    )
    check_nemo_evaluator(options)
    return [lambda run, progress: run_nemo_evaluator(run, options, say=say, progress=progress)]


def _refuse_alone(option: str, *others: object) -> None:
    if any(other is not None for other in others):
        raise RecipeError(f"only makes sense with {option}", where="the command line", mend=f"add {option} TASK,TASK")
