"""The FiQA project's training script: its seven steps and its folders around an ordinary run.

`data/` holds the processed rows, `checkpoints/` is the run folder, with `final_model/` and `training_config.json`
beside the checkpoints, and `outputs/logs` leads to the run's TensorBoard files.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli.output import say, say_on_main, tell_all

if TYPE_CHECKING:
    from whet.cli.preview import Preview
    from whet.recipe.schema import Recipe

DATA, CHECKPOINTS, LOGS = Path("data"), Path("checkpoints"), Path("outputs", "logs")
FINAL_MODEL, TRAINING_CONFIG = "final_model", "training_config.json"
_STEPS = 7
_SHOWN_LETTERS = 70


def main(default_recipe: Path) -> None:
    """Run the steps as the command line asks; errors leave by whet's exit codes."""
    from whet.cli.main import leave_by_exit_code

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def train_fiqa(
        overrides: Annotated[
            list[str] | None,
            typer.Argument(help="Settings to change, such as optim.lr=1e-4.", metavar="[KEY=VALUE]..."),
        ] = None,
        recipe: Annotated[Path, typer.Option(help="Recipe (YAML).")] = default_recipe,
        fresh: Annotated[bool, typer.Option(help="Move an earlier run aside and start anew.")] = False,
        evaluate: Annotated[bool, typer.Option(help="Answer the test rows with base and tuned afterwards.")] = False,
    ) -> None:
        """Fine-tune on FiQA in seven steps. An interrupted run continues with the same command."""
        run_project(recipe, overrides or [], fresh=fresh, evaluate=evaluate)

    leave_by_exit_code(app)


def run_project(path: Path, overrides: list[str], *, fresh: bool, evaluate: bool) -> None:
    """The seven steps. Relative folders start in the current one; other ranks than 0 only train."""
    from whet.allocator import keep_freed_memory
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe_file import load_any_recipe
    from whet.train import folder
    from whet.train.signals import interruptible

    recipe = load_any_recipe(path, [f"output={CHECKPOINTS}", *overrides], say_on_main)
    run_folder = Path(recipe.output)
    folder.check_writable(run_folder, needed_bytes=folder.needed_bytes(recipe))
    if not fresh:
        folder.refuse_other_recipe(run_folder, recipe)
    with interruptible():
        quiet_libraries()
        logging.getLogger(__name__).info(keep_freed_memory())
        from whet.evaluation import scoring
        from whet.evaluation.run import evaluate_run
        from whet.parallel.env import read_env
        from whet.train.run import Options, run_recipe

        if evaluate:
            scoring.require(recipe.evaluate)
        preview = _before_training(recipe) if read_env().is_main else None
        outcome = run_recipe(recipe, Options(fresh=fresh, say=say))
        if preview is not None:
            _after_training(recipe, preview, evaluate=evaluate)
            state = "was finished before" if outcome.was_finished_before else f"finished in {outcome.seconds:.0f} s"
            say(f"{recipe.name}: {outcome.steps:,} steps, {state}")
        elif evaluate and recipe.evaluate:
            evaluate_run(run_folder, say=say)  # this rank's share of the answers


def _before_training(recipe: Recipe) -> Preview:
    """Steps 1 to 5, and the table of step 6."""
    from whet.cli.preview import preview_run
    from whet.data.pipeline import prepare
    from whet.data.processed import write_processed
    from whet.models.tokenizer import load_tokenizer

    _step(1, "Environment")
    _tell_environment()
    _step(2, "Data")
    loaded = load_tokenizer(recipe.model)
    data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd(), say=say)
    for file, num_rows in write_processed(DATA, recipe, data.template, base_folder=Path.cwd()).items():
        say(f"  {file}: {num_rows:,} rows")
        _tell_first_row(file)
    preview = preview_run(recipe, num_rows=len(data.train.samples))
    _step(3, "Model")
    say(f"  {recipe.model.id}, computed in {recipe.model.dtype}")
    if preview.weights is not None:
        say(f"  {preview.weights.num_base:,} weights")
    _step(4, "LoRA adapter")
    _tell_adapter(preview)
    _step(5, "Tokens")
    tokenizer = loaded.tokenizer
    say(f"  vocabulary {len(tokenizer):,}, pad token {tokenizer.pad_token}, answers end with "
        f"{', '.join(tokenizer.convert_ids_to_tokens(list(data.template.end_ids)))}")  # fmt: skip
    for name, tokens in (("train", data.train), ("validation", data.validation)):
        if tokens is not None:
            say(f"  {name}: {len(tokens.samples):,} samples, {int(tokens.lengths.sum()):,} tokens, longest "
                f"{int(tokens.lengths.max()):,}, {int(tokens.num_taught.sum()):,} taught")  # fmt: skip
    _step(6, "Training")
    for key, value in training_config(recipe, preview).items():
        if key != "recipe":
            say(f"  {key:<28} {value}")
    _lead_to_logs(Path(recipe.output) / "logs")
    return preview


def _after_training(recipe: Recipe, preview: Preview, *, evaluate: bool) -> None:
    """Step 7: what the project hands over, then the report and, if asked for, the verdict."""
    from whet.allocator import release_memory
    from whet.atomic import write_text
    from whet.evaluation.run import evaluate_run
    from whet.report import write_report

    run_folder = Path(recipe.output)
    _step(7, "Final model")
    copy_final(run_folder, run_folder / FINAL_MODEL)
    say(f"  {run_folder / FINAL_MODEL}: adapter and tokenizer")
    write_text(run_folder / TRAINING_CONFIG, json.dumps(training_config(recipe, preview), indent=2) + "\n")
    say(f"  {run_folder / TRAINING_CONFIG}")
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    for key in ("last_train_loss", "best_validation_loss", "best_step", "seconds"):
        if summary.get(key) is not None:
            say(f"  {key.replace('_', ' ')}: {summary[key]:.4g}")
    if evaluate and recipe.evaluate:
        release_memory()
        tell_all(evaluate_run(run_folder, say=say))
    elif recipe.evaluate:
        say(f"  whether it helped: whet evaluate {run_folder}")
    say(f"  report: {write_report(run_folder)}; TensorBoard: tensorboard --logdir {LOGS}")


def training_config(recipe: Recipe, preview: Preview) -> dict[str, Any]:
    """The settings under the project's names, and the recipe whole; plain JSON values."""
    plan, weights, is_adapter = preview.plan, preview.weights, recipe.adapter.method != "none"
    adapter = {
        "lora_r": recipe.adapter.rank,
        "lora_alpha": recipe.adapter.alpha,
        "lora_dropout": recipe.adapter.dropout,
        "target_modules": recipe.adapter.targets,
    }
    settings = {
        "model_name": recipe.model.id,
        "dtype": recipe.model.dtype,
        **(adapter if is_adapter else {}),
        "learning_rate": recipe.optim.lr,
        "lr_scheduler_type": recipe.optim.schedule,
        "warmup_steps": plan.warmup_steps if plan else None,
        "per_device_train_batch_size": preview.micro_batch,
        "gradient_accumulation_steps": preview.accumulation,
        "effective_batch_size": recipe.batch.global_size,
        "num_train_epochs": recipe.train.epochs,
        "total_steps": plan.total_steps if plan else None,
        "max_seq_length": recipe.data.max_length,
        "seed": recipe.seed,
        "num_train_samples": preview.num_rows,
        "trainable_parameters": weights.num_trainable if weights else None,
        "recipe": asdict(recipe),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def copy_final(run_folder: Path, target: Path) -> None:
    """The files that the run's manifest lists, so that `PeftModel.from_pretrained(target)` reads them; manifest last.

    StorageError when the disk refuses.
    """
    from whet.atomic import write_bytes
    from whet.checkpoint.manifest import NAME

    names = json.loads((run_folder / NAME).read_text(encoding="utf-8"))["sha256"]
    for name in (*names, NAME):
        write_bytes(target / name, (run_folder / name).read_bytes())


def _lead_to_logs(logs: Path) -> None:
    """`outputs/logs` as a link to the run's TensorBoard files; a folder that is already there is left alone."""
    import os

    from whet.errors import StorageError

    try:
        LOGS.parent.mkdir(parents=True, exist_ok=True)
        if LOGS.is_symlink():
            LOGS.unlink()
        if LOGS.exists():
            say(f"  {LOGS} exists already: TensorBoard files are in {logs}")
            return
        LOGS.symlink_to(os.path.relpath(logs, LOGS.parent), target_is_directory=True)
    except OSError as error:
        raise StorageError(
            f"cannot be made ({error.strerror})", where=str(LOGS), mend="run in another folder"
        ) from error


def _step(number: int, title: str) -> None:
    say(f"\n[{number}/{_STEPS}] {title}")


def _tell_environment() -> None:
    import os

    import torch

    say(f"  torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            say(f"  {gpu.name}, {gpu.total_memory / 1e9:.1f} GB")
    else:
        say(f"  no GPU: training on the CPU, {os.cpu_count()} cores")


def _tell_adapter(preview: Preview) -> None:
    from whet.cli.preview import size

    if preview.recipe.adapter.method == "none":
        say("  none: all weights are trained")
    elif preview.weights is None:
        say(f"  rank {preview.recipe.adapter.rank}")
    else:
        weights = preview.weights
        say(f"  {weights.num_trainable:,} weights, {100 * weights.share:.4g} % of all")
        say(f"  adapter file {size(weights.final_bytes)}, float32")


def _tell_first_row(file: Path) -> None:
    with file.open(encoding="utf-8") as lines:
        first = lines.readline()
    if first:
        say(f"    {json.loads(first)['question'][:_SHOWN_LETTERS]!r}")
