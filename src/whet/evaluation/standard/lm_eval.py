"""Standard tasks by lm-evaluation-harness on base and tuned, each task and model in a process of its own.

lm-eval reads the base's own folder and, of the tuned model, an export that is made for it and removed again, both in
the number format the run computes in. What it measured is kept under a key of all that decides it: the base's in the
user's cache, so that other runs over the same weights do not measure it again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whet import cache
from whet.errors import RecipeError, StorageError
from whet.evaluation.standard.lm_eval_output import read_output
from whet.evaluation.standard.outcome import Measured, describe, join, write_results
from whet.evaluation.standard.tool_process import Progress, interpreter_versions, run_tool
from whet.export import EXPORTS, Request
from whet.inference.tuned import final_weights
from whet.json_text import read_json
from whet.models.folder import weights_sha256
from whet.models.load import choose_dtype
from whet.models.source import find_model
from whet.parallel.env import choose_device, read_env
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe

Say = Callable[[str], None]
FOLDER = "lm-eval"
_KEY = "key.json"
_INSTALL = "pip install 'whet[eval]', or name another environment's interpreter with --lm-eval-python"
_OLDEST = (0, 4, 10)
_DECISIVE_FILES = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
"""Besides the weights, what lm-eval's figures of a model folder can depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LmEvalOptions:
    """What lm-eval is asked for."""

    tasks: tuple[str, ...]
    """names of tasks, tags or groups"""
    tasks_folder: Path | None = None
    """folder with more task files (`--include_path`); they may hold code, which lm-eval runs"""
    limit: int | None = None
    """first rows of each task; None: all"""
    uses_chat_template: bool = False
    """whether prompts are written as turns; by default as the task writes them"""
    python: str = sys.executable
    """interpreter of the environment that lm-eval is installed in"""
    model_args: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """more settings of lm-eval's `hf` model (`max_length`, `softmax_dtype`, ...)"""
    fresh: bool = False
    """measure again even where the figures are there"""


def check_lm_eval(options: LmEvalOptions) -> dict[str, str]:
    """Versions of lm-eval and of what computes for it; RecipeError where it is missing or too old."""
    if not options.tasks or any(not task or task.startswith("-") for task in options.tasks):
        raise RecipeError("no task is named", where="--lm-eval", mend="for example --lm-eval gsm8k,arc_easy")
    if options.tasks_folder is not None and not options.tasks_folder.is_dir():
        raise RecipeError("no such folder", where=str(options.tasks_folder), mend="name the folder of the task files")
    if taken := {"pretrained", "dtype", "trust_remote_code"} & options.model_args.keys():
        raise RecipeError(f"model_args.{min(taken)} is set by whet", where="lm-eval", mend="leave it out")
    versions = interpreter_versions(
        options.python, ("lm_eval", "transformers", "torch"), where="--lm-eval-python", mend=_INSTALL
    )
    if "lm_eval" not in versions:
        raise RecipeError("lm-eval is not installed", where=options.python, mend=_INSTALL)
    if tuple(int(part) for part in versions["lm_eval"].split(".")[:3] if part.isdigit()) < _OLDEST:
        raise RecipeError(
            f"lm-eval {versions['lm_eval']} is too old", where=options.python, mend="pip install 'lm-eval>=0.4.10'"
        )
    return versions


def run_lm_eval(run_folder: Path, options: LmEvalOptions, *, say: Say, progress: Progress) -> Path:
    """Measure `options.tasks` on base and tuned, compare them row by row, write and return the run's results.json.

    RecipeError: lm-eval or a task is missing; StorageError: the run has no final weights; a failure of lm-eval itself
    is raised as the kind that its last lines name.
    """
    versions = check_lm_eval(options)
    recipe = load_recipe(run_folder / "recipe.yaml")
    final_weights(run_folder)
    folder = run_folder / "evaluations" / FOLDER
    with cache.one_writer(folder / "lm-eval.lock"):
        for left_over in folder.glob(".tuned-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        run = _LmEval(run_folder, folder, recipe, options, versions, say, progress)
        with ExitStack() as until_done:
            base = [each for task in options.tasks for each in run.measure("base", task, until_done)]
            tuned = [each for task in options.tasks for each in run.measure("tuned", task, until_done)]
        entries, notes = join(base, tuned)
        for entry in entries:
            say(f"lm-eval: {describe(entry)}")
        return write_results(folder, entries, tool=f"lm-eval {versions['lm_eval']}", notes=[*run.notes(), *notes])


class _LmEval:
    """One evaluation: where its parts lie, and the export of the tuned model once it is needed."""

    def __init__(
        self, run_folder: Path, folder: Path, recipe: Recipe, options: LmEvalOptions, versions: dict[str, str],
        say: Say, progress: Progress,
    ) -> None:  # fmt: skip
        self._run_folder, self._folder, self._recipe, self._options = run_folder, folder, recipe, options
        self._versions, self._say, self._progress = versions, say, progress
        self._base = find_model(recipe.model)
        device = choose_device(recipe.train.device, read_env())
        self._device = device.type
        dtype = str(choose_dtype(recipe.model.dtype, device)).removeprefix("torch.")
        # an export has no float64, and lm-eval's figures do not need it
        self._dtype = "bfloat16" if dtype == "bfloat16" else "float32"
        self._tuned: Path | None = None

    def notes(self) -> list[str]:
        """What a reader must know of all the figures."""
        how = "as turns of the chat template" if self._options.uses_chat_template else "as the task writes them"
        notes = [
            f"Prompts {how}; both models in {self._dtype}, base and tuned (an export of the run) by the same lm-eval.",
            "Each p-value is of its metric alone, not adjusted for the others.",
        ]
        if self._options.limit is not None:
            notes.append(f"Only the first {self._options.limit} rows of each task: not a figure to publish.")
        if self._recipe.model.quantize != "none":
            notes.append(f"Trained over a base in {self._recipe.model.quantize}; measured over the unquantised one.")
        return notes

    def measure(self, model: str, task: str, until_done: ExitStack) -> list[Measured]:
        """What lm-eval says of the task, measured now unless it is there under the same key."""
        key = self._key(model, task)
        name = _slug(task)
        here = self._folder / model / name
        shared = cache.cache_folder() / FOLDER / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        if not self._options.fresh and _holds(here, key):
            self._say(f"lm-eval: {task}: {model} was measured before")
        elif not self._options.fresh and model == "base" and _holds(shared, key):
            self._say(f"lm-eval: {task}: base was measured before, for another run")
            _place(here, lambda draft: shutil.copytree(shared, draft, dirs_exist_ok=True))
        else:
            folder = self._base.folder if model == "base" else self._export(until_done)
            _place(here, lambda draft: self._run(draft, folder, model, task, key))
            if model == "base":
                self._share(here, shared)
        return read_output(here)

    def _key(self, model: str, task: str) -> dict[str, Any]:
        """All that decides the figures."""
        folders = [self._base.folder] if model == "base" else [self._base.folder, self._run_folder]
        files = [folder / name for folder in folders for name in _DECISIVE_FILES if (folder / name).is_file()]
        weights = [self._base.identity.weights_sha256]
        if model == "tuned":
            weights.append(weights_sha256(final_weights(self._run_folder)))
        return {
            "task": task,
            "weights": weights,
            "files": [[path.name, cache.digest_of(path)] for path in files],
            "chat": self._options.uses_chat_template,
            "limit": self._options.limit,
            "model_args": dict(sorted(self._options.model_args.items())),
            "tasks_folder": _fingerprint(self._options.tasks_folder),
            "dtype": self._dtype,
            "device": self._device,
            "versions": self._versions,
        }

    def _export(self, until_done: ExitStack) -> Path:
        """The tuned model as a folder that any tool loads, until the evaluation ends."""
        if self._tuned is None:
            self._say("lm-eval: exporting the tuned model for it")
            place = until_done.enter_context(TemporaryDirectory(prefix=".tuned-", dir=self._folder))
            self._tuned = EXPORTS["hf"](
                Request(
                    run_folder=self._run_folder, output=Path(place) / "model", dtype=self._dtype,  # type: ignore[arg-type]
                    is_proved=False, say=lambda _sentence: None,
                )
            )  # fmt: skip
        return self._tuned

    def _run(self, draft: Path, model_folder: Path, model: str, task: str, key: dict[str, Any]) -> None:
        config = draft / "config.yaml"
        # JSON is YAML; a file, because the command line would split paths at commas and equals signs
        config.write_text(json.dumps(self._config(draft, model_folder, task), indent=1) + "\n", encoding="utf-8")
        command = [self._options.python, "-m", "lm_eval", "run", "--config", str(config)]
        what = f"lm-eval {task}: {model}"
        log = self._folder / f"{model}-{_slug(task)}.log"
        self._say(f"{what} ...")
        run_tool(command, name="lm-eval", log=log, progress=self._progress, what=what)
        read_output(draft)
        (draft / _KEY).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")

    def _config(self, draft: Path, model_folder: Path, task: str) -> dict[str, Any]:
        config: dict[str, Any] = {
            "model": "hf",
            "model_args": {
                **self._options.model_args,
                "pretrained": str(model_folder.resolve()), "dtype": self._dtype, "trust_remote_code": False,
            },
            "tasks": [task],
            "device": self._device,
            "batch_size": "auto" if self._device == "cuda" else 8,
            "output_path": str(draft.resolve()),
            "log_samples": True,
            "trust_remote_code": False,
        }  # fmt: skip
        if self._options.tasks_folder is not None:
            config["include_path"] = str(self._options.tasks_folder.resolve())
        if self._options.limit is not None:
            config["limit"] = self._options.limit
        if self._options.uses_chat_template:
            config["apply_chat_template"] = True
        return config

    def _share(self, here: Path, shared: Path) -> None:
        try:
            _place(shared, lambda draft: shutil.copytree(here, draft, dirs_exist_ok=True))
        except (StorageError, OSError) as error:
            self._say(f"lm-eval: other runs cannot use the base's figures: {error}")


def _slug(task: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in task).lstrip(".") or "_"
    return kept if kept == task else f"{kept}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def _holds(folder: Path, key: dict[str, Any]) -> bool:
    """Whether lm-eval's files of exactly this key lie there, whole."""
    try:
        return bool(read_json((folder / _KEY).read_bytes()) == key)
    except (OSError, ValueError):
        return False


def _place(target: Path, fill: Callable[[Path], object]) -> None:
    """Fill a draft folder, then give it the name `target`; what was there goes. After a failure nothing is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".draft-", dir=target.parent) as place:
        draft = Path(place) / "files"
        draft.mkdir()
        fill(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)


def _fingerprint(folder: Path | None) -> str | None:
    """SHA-256 over names and contents of the files of a tasks folder: another rule is another task."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(folder)}\n{cache.sha256_of(path)}\n".encode())
    return digest.hexdigest()


def parse_tasks(text: str) -> tuple[str, ...]:
    """`gsm8k,arc_easy` -> its names, each once, in order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
