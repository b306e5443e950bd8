"""`whet evaluate RUN`: answer the run's evaluation sets with base and tuned and compare."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from whet.cli import standard, verbosity
from whet.cli.completion import run_paths
from whet.cli.output import Json, give, note, say, tell_all, verdicts_document
from whet.cli.progress import ProgressLine
from whet.cli.run_argument import check_run

Fresh = Annotated[bool, typer.Option(help="Answer again even where stored answers still belong.")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        help="Time for all of it: base and tuned answer the same first rows that fit (at least 8 of each set). "
        "Without this later on, the other rows are answered too.",
        metavar="S",
        min=0,
    ),
]
MaxRows = Annotated[
    int | None, typer.Option(help="Answer at most this many rows of each set, the first ones.", metavar="N", min=1)
]
Backend = Annotated[
    Literal["whet", "vllm"],
    typer.Option(help="What writes the answers: whet's own engine, or vLLM on a GPU (pip install 'whet\\[vllm]')."),
]
PlanFiles = Annotated[
    Path | None,
    typer.Option(
        help="Also write baseline_results.json, peft_results.json and comparison_report.json, the files of the "
        "FiQA project's evaluation plan.",
        metavar="FOLDER",
    ),
]
NemoRows = Annotated[
    Path | None,
    typer.Option(
        help="Also write {input, label, prediction} rows, as NeMo's scripts read them, and say what its metric "
        "script makes of them.",
        metavar="FILE",
    ),
]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN", autocompletion=run_paths)],
    fresh: Fresh = False,
    max_seconds: MaxSeconds = None,
    max_rows: MaxRows = None,
    backend: Backend = "whet",
    plan_files: PlanFiles = None,
    nemo_rows: NemoRows = None,
    lm_eval: standard.LmEvalTasks = None,
    lm_eval_tasks_folder: standard.LmEvalFolder = None,
    lm_eval_limit: standard.LmEvalLimit = None,
    lm_eval_chat: standard.LmEvalChat = False,
    lm_eval_python: standard.LmEvalPython = None,
    nemo_evaluator: standard.NemoTasks = None,
    endpoint: standard.Endpoint = None,
    endpoint_models: standard.EndpointModels = None,
    base_endpoint: standard.BaseEndpoint = None,
    nemo_limit: standard.NemoLimit = None,
    nemo_python: standard.NemoPython = None,
    as_json: Json = False,
) -> None:
    """Answer the run's held-out rows with base and tuned model and say whether tuning helped.

    Answers are kept as they are made: killed half-way, the same command goes on where it was.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation.plan_files import write_plan_files
    from whet.evaluation.run import EvaluateOptions, evaluate_run
    from whet.parallel.env import read_env
    from whet.report import write_report

    verbosity.speak_to_program(as_json)
    check_run(run)
    quiet_libraries()
    measurements = [
        *standard.ask_lm_eval(lm_eval, lm_eval_tasks_folder, lm_eval_limit, lm_eval_chat, lm_eval_python, fresh=fresh),
        *standard.ask_nemo_evaluator(nemo_evaluator, endpoint, endpoint_models, base_endpoint, nemo_limit, nemo_python),
    ]
    with ProgressLine() as line:
        options = EvaluateOptions(
            fresh=fresh,
            max_seconds=max_seconds,
            max_rows=max_rows,
            backend=backend,
            nemo_rows=nemo_rows,
            progress=line.tell,
        )
        comparisons = evaluate_run(run, say=note, options=options)
    if not read_env().is_main:
        return  # it has written its share of the answers
    tell_all(comparisons)
    written = _tell_written(write_plan_files(run, plan_files) if plan_files else ())
    with ProgressLine() as line:
        written += _tell_written(measure(run, line.tell) for measure in measurements)
    report = str(write_report(run))
    say(f"\nreport: {report}")
    if as_json:
        given = {"run": str(run), "report": report, "written": written}
        give(given | verdicts_document(comparisons))


def _tell_written(paths: Iterable[Path]) -> list[str]:
    """Say of each file that it is written as soon as it is; their names."""
    names = []
    for path in paths:
        say(f"written: {path}")
        names.append(str(path))
    return names
