"""Benchmarks by NVIDIA's NeMo Evaluator (0.3) on a base and a tuned model that something else serves.

It asks an address of OpenAI's kind (vLLM, SGLang, ...). Which weights answer there cannot be checked from here, so
nothing is kept for later: every call measures anew, and the notes name the addresses. A row that the server failed to
answer is a wrong answer to NeMo Evaluator (which then ends well); here it stops the evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whet import cache
from whet.errors import HubError, RecipeError
from whet.evaluation.standard.nemo_output import read_output
from whet.evaluation.standard.outcome import Measured, describe, join, write_results
from whet.evaluation.standard.tool_process import Progress, interpreter_versions, run_tool

Say = Callable[[str], None]
FOLDER = "nemo-evaluator"
KEY_VARIABLE = "WHET_ENDPOINT_KEY"
"""Environment variable with the key of the served models, where they want one; it is written to no file."""
_INSTALL = (
    "pip install 'whet[nemo]' (Python 3.12 or 3.13), or name another environment's interpreter with --nemo-python"
)
_OLDEST = (0, 3)
_SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NemoOptions:
    """What NeMo Evaluator is asked for."""

    tasks: tuple[str, ...]
    """its benchmarks (`gsm8k`, `mmlu`, `lm-eval://TASK`) or files of one's own (`bench.py`), whose code it runs"""
    endpoint: str
    """address up to `/v1`"""
    models: tuple[str, ...]
    """names that the endpoint serves base and tuned under"""
    base_endpoint: str | None = None
    """address of the base where it is another one"""
    limit: int | None = None
    """rows of each benchmark, drawn the same for both models; None: all"""
    python: str = sys.executable
    """interpreter of the environment that NeMo Evaluator is installed in"""


def check_nemo_evaluator(options: NemoOptions) -> dict[str, str]:
    """Its version; RecipeError where it is missing or cannot do what is asked, HubError where nothing answers."""
    if not options.tasks or any(task.startswith("-") for task in options.tasks):
        raise RecipeError("no benchmark is named", where="--nemo-evaluator", mend="for example --nemo-evaluator gsm8k")
    if len(options.models) != 2:
        raise RecipeError(
            f"two names are needed, found {len(options.models)}", where="--endpoint-models",
            mend="the names that the base and the tuned model are served under: --endpoint-models BASE,TUNED",
        )  # fmt: skip
    addresses = _addresses(options)
    if len(set(zip(addresses, options.models, strict=True))) == 1:
        raise RecipeError(
            "base and tuned are the same model at the same address", where="--endpoint-models",
            mend="serve both, for example with vLLM: --enable-lora --lora-modules tuned=FOLDER",
        )  # fmt: skip
    versions = interpreter_versions(options.python, ("nemo-evaluator",), where="--nemo-python", mend=_INSTALL)
    if "nemo-evaluator" not in versions:
        raise RecipeError("NeMo Evaluator is not installed", where=options.python, mend=_INSTALL)
    found = tuple(int(part) for part in versions["nemo-evaluator"].split(".")[:2] if part.isdigit())
    if found < _OLDEST:
        raise RecipeError(
            f"nemo-evaluator {versions['nemo-evaluator']} is too old", where=options.python, mend=_INSTALL
        )
    for address, model in zip(addresses, options.models, strict=True):
        _check_served(address, model)
    return versions


def run_nemo_evaluator(run_folder: Path, options: NemoOptions, *, say: Say, progress: Progress) -> Path:
    """Measure `options.tasks` on the two served models, compare them row by row, write and return results.json.

    RecipeError, HubError: as `check_nemo_evaluator`; HubError: the server failed to answer rows; a failure of NeMo
    Evaluator itself is raised as the kind that its last lines name.
    """
    versions = check_nemo_evaluator(options)
    folder = run_folder / "evaluations" / FOLDER
    with cache.one_writer(folder / "nemo-evaluator.lock"):
        measured = []
        for model, address, served in zip(("base", "tuned"), _addresses(options), options.models, strict=True):
            say(f"NeMo Evaluator: {', '.join(options.tasks)}: {model} ({served} at {address}) ...")
            measured.append(_measure(folder, model, address, served, options, progress))
        entries, notes = join(*measured)
        for entry in entries:
            say(f"NeMo Evaluator: {describe(entry)}")
        tool = f"nemo-evaluator {versions['nemo-evaluator']}"
        return write_results(folder, entries, tool=tool, notes=[*_notes(options), *notes])


def _addresses(options: NemoOptions) -> tuple[str, str]:
    """Of base and tuned."""
    addresses = [options.base_endpoint or options.endpoint, options.endpoint]
    for address in addresses:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise RecipeError(
                f"{address!r} is no address of a server", where="--endpoint",
                mend=f"for example http://127.0.0.1:8000/v1 (a key goes into the environment variable {KEY_VARIABLE})",
            )  # fmt: skip
    base, tuned = (address.rstrip("/").removesuffix("/chat/completions") for address in addresses)
    return base, tuned


def _check_served(address: str, model: str) -> None:
    """HubError where nobody answers; RecipeError where the server lists its models and `model` is none of them."""
    request = urllib.request.Request(f"{address}/models", headers={"Authorization": f"Bearer {_key()}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER) as reply:  # noqa: S310 - http(s), checked
            listed = json.loads(reply.read(1 << 20))
        names = [str(each["id"]) for each in listed["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise HubError(
                f"the server refuses the key (HTTP {error.code})", where=address, mend=f"set {KEY_VARIABLE}"
            ) from error
        return  # answers, but lists no models
    except OSError as error:
        raise HubError(f"no server answers ({error})", where=address, mend="start it, or check --endpoint") from error
    except (ValueError, KeyError, TypeError):
        return
    if model not in names:
        raise RecipeError(f"no model {model!r} is served", where=address, mend=f"served are: {', '.join(names)}")


def _key() -> str:
    return os.environ.get(KEY_VARIABLE) or "none"


def _measure(
    folder: Path, model: str, address: str, served: str, options: NemoOptions, progress: Progress
) -> list[Measured]:
    """One run of NeMo Evaluator over all tasks; its files take the place of an earlier run's."""
    target = folder / model
    with TemporaryDirectory(prefix=".draft-", dir=folder) as place:
        draft = Path(place) / "files"
        draft.mkdir()
        config = draft / "config.yaml"
        # JSON is YAML
        config.write_text(json.dumps(_config(draft, address, served, options), indent=1) + "\n", encoding="utf-8")
        run_tool(
            [options.python, "-m", "nemo_evaluator.cli.main", "eval", "run", str(config)],
            name="NeMo Evaluator", log=folder / f"{model}.log", progress=progress, what=f"NeMo Evaluator: {model}",
            secrets=[_key()] if os.environ.get(KEY_VARIABLE) else [], environment={KEY_VARIABLE: _key()},
        )  # fmt: skip
        measured = read_output(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    return measured


def _config(draft: Path, address: str, served: str, options: NemoOptions) -> dict[str, Any]:
    tasks = [str(Path(task).resolve()) if task.endswith(".py") else task for task in options.tasks]
    return {
        "services": {
            "model": {
                "type": "api",
                "url": f"{address}/chat/completions",
                "protocol": "chat_completions",
                "model": served,
                "api_key": f"${{{KEY_VARIABLE}}}",
                "generation": {"temperature": 0.0},
            }
        },
        "benchmarks": [
            {
                "name": task, "solver": {"type": "simple", "service": "model"}, "repeats": 1,
                **({} if options.limit is None else {"max_problems": options.limit}),
            }
            for task in tasks
        ],
        "output": {"dir": str(draft.resolve()), "timestamped": False, "report": []},
    }  # fmt: skip


def _notes(options: NemoOptions) -> list[str]:
    base, tuned = _addresses(options)
    notes = [
        f"Asked: {options.models[0]} at {base} as base, {options.models[1]} at {tuned} as tuned, greedy. Which weights "
        "answer there was not checked.",
        "The standard error is NeMo Evaluator's standard deviation of the rows' rewards / sqrt(rows).",
        "Each p-value is of its metric alone, not adjusted for the others.",
    ]
    if options.limit is not None:
        notes.append(f"Only {options.limit} rows of each benchmark: not a figure to publish.")
    return notes
