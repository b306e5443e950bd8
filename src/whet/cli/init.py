"""`whet init`: four questions (or flags) -> a recipe that runs here, its rows divided, and what to type next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from whet.cli.output import note, say
from whet.errors import RecipeError, WhetError

if TYPE_CHECKING:
    from whet.cli.init_model import ModelFacts
    from whet.cli.init_rows import Material
    from whet.cli.this_machine import Machine
    from whet.recipe.draft import Wishes

_T = TypeVar("_T")
DEFAULT_MINUTES = 10.0
SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """All that was asked."""

    data: str
    material: Material
    model: ModelFacts
    minutes: float


def init(
    data: Annotated[
        str | None,
        typer.Option(
            help="File of rows (.csv, .tsv, .jsonl, .json, .parquet), or gsm8k, metamathqa, fiqa, dolly, squad, "
            "reasoning-gym:TASK.",
            metavar="FILE|NAME",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Built-in name, model folder or hub id.", metavar="ID")] = None,
    answers: Annotated[
        str | None,
        typer.Option(help="How answers look: number, choice, short, long, formula; else seen.", metavar="KIND"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for training and answering on this machine.", metavar="N", min=1)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder of the recipe (default: runs/NAME).")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe to write (default: NAME.yaml).", metavar="FILE")] = None,
    question_column: Annotated[
        str | None, typer.Option("--question", help="Column of the questions.", metavar="COLUMN")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option("--answer", help="Column of the answers.", metavar="COLUMN")
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
    seed: Annotated[int, typer.Option(help="Decides which rows are held out, and the run.", min=0)] = SEED,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: defaults for what no flag says.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier recipe and its rows.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and write nothing.")] = False,
) -> None:
    """Write a first recipe for your rows, with held-out rows to judge by; nothing is trained yet.

    Asks for data, model, kind of answers and time; flags answer beforehand. The rows of a file are drawn into three
    parts (train, validation, held out) with no question in two of them.
    """
    from whet.cli.this_machine import look_at_machine

    ask = _Asker(is_asking=not yes and is_terminal())
    machine = look_at_machine()
    note(f"this machine: {machine.sentence()}")

    read_data = _reader_of_rows(
        recipe, seed=seed, question=question_column, answer=answer_column, skips_bad_rows=skip_bad_rows
    )
    name, material = ask.for_data(data, read_data)
    path = recipe or Path(f"{material.name}.yaml")
    if not force and not dry_run:
        _refuse_present([path, *map(Path, material.files)])
    for sentence in material.notes:
        note(sentence)
    found = ask.for_model(model, machine)
    if found.note:
        note(found.note)
    material = ask.for_kind(answers, material)
    answered = Answered(data=name, material=material, model=found, minutes=ask.for_minutes(minutes, machine))
    _write(answered, path, run=(output or Path("runs") / material.name).as_posix(), seed=seed, dry_run=dry_run)


def _reader_of_rows(
    recipe: Path | None, *, seed: int, question: str | None, answer: str | None, skips_bad_rows: bool
) -> Callable[[str], tuple[str, Material]]:
    def read(text: str) -> tuple[str, Material]:
        from whet.cli.init_rows import find_material

        text = text.strip("\"'")  # as a file dragged into a terminal is quoted
        return text, find_material(
            text, recipe=recipe, seed=seed, question=question, answer=answer, skips_bad_rows=skips_bad_rows
        )

    return read


def is_terminal() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


@dataclass(frozen=True, slots=True)
class _Asker:
    """The four questions. A flag answers beforehand; where nobody can answer, the default does."""

    is_asking: bool

    def for_data(self, flag: str | None, read: Callable[[str], _T]) -> _T:
        if flag is None and not self.is_asking:
            raise RecipeError(
                "whet init needs to know the data", where="--data", mend="whet init --data rows.csv --yes"
            )
        text = "1. What data? A file of questions and answers, or gsm8k, metamathqa, fiqa, dolly, squad"
        return self._ask(text, None, flag, read)

    def for_model(self, flag: str | None, machine: Machine) -> ModelFacts:
        from whet.cli.init_model import BUILT_IN, check_model

        text = "2. Which model? Built in, a hub id (OWNER/NAME) or a folder"
        return self._ask(text, BUILT_IN, flag, lambda model_id: check_model(model_id, machine))

    def for_kind(self, flag: str | None, material: Material) -> Material:
        from dataclasses import replace
        from importlib.util import find_spec

        from whet.recipe.draft import KINDS, MEANINGS

        def read(kind: str) -> Material:
            known = next((each for each in KINDS if each == kind.strip().lower()), None)
            if known is None:
                raise RecipeError(f"there is no kind of answers {kind!r}", mend=f"one of {', '.join(KINDS)}")
            if known == "formula" and find_spec("math_verify") is None:
                raise RecipeError("formulas are judged by math-verify, which is not installed",
                                  mend="pip install 'whet[math]', or take another kind of answers")  # fmt: skip
            return replace(material, kind=known)

        if flag is None and self.is_asking:
            for kind in KINDS:
                say(f"   {kind:8} {MEANINGS[kind]}")
        return self._ask("3. How do the answers look?", material.kind, flag, read)

    def for_minutes(self, flag: float | None, machine: Machine) -> float:
        def read(text: str) -> float:
            try:
                value = float(text)
            except ValueError:
                value = 0.0
            if not 1 <= value <= 1e6:
                raise RecipeError(f"{text!r} is no number of minutes", mend="a number from 1 on")
            return value

        text = f"4. How many minutes may it take here ({machine.sentence()})?"
        return self._ask(text, f"{DEFAULT_MINUTES:g}", None if flag is None else str(flag), read)

    def _ask(self, text: str, default: str | None, flag: str | None, read: Callable[[str], _T]) -> _T:
        """The first answer that `read` takes; a wrong flag is an error, a wrong answer is asked for again."""
        if flag is not None or not self.is_asking:
            return read(flag if flag is not None else str(default))
        while True:
            try:
                return read(str(typer.prompt(text, default=default)).strip())
            except WhetError as error:
                say(f"   {error}")


def _refuse_present(files: list[Path]) -> None:
    present = [file for file in files if file.exists()]
    if present:
        more = f", and {len(present) - 1} more files" if len(present) > 1 else ""
        raise RecipeError(
            f"is there already{more}",
            where=str(present[0]),
            mend="choose another name with --recipe NAME.yaml, or write over it with --force",
        )


def _write(answered: Answered, path: Path, *, run: str, seed: int, dry_run: bool) -> None:
    from whet import atomic
    from whet.recipe import parse_recipe
    from whet.recipe.draft import draft_recipe

    material = answered.material
    commands = list(_commands(path, run))
    text = draft_recipe(_wishes(answered, run, seed, [line for line, _ in commands]))
    parse_recipe(text, str(path))
    if dry_run:
        typer.echo(text, nl=False)
        return
    for file, content in {**{Path(name): rows for name, rows in material.files.items()}, path: text}.items():
        atomic.write_text(file, content)
    say(f"{material.sets.story}.")
    say(f"wrote {path}" + (f" and {len(material.files)} files of rows beside it" if material.files else ""))
    say("next:")
    width = max(len(line) for line, _ in commands)
    for line, meaning in commands:
        say(f"  {line:<{width}}  {meaning}")


def _commands(recipe: Path, run: str) -> Iterator[tuple[str, str]]:
    """What to type next, and what it does."""
    yield f"whet inspect {shlex.quote(str(recipe))}", "what the model will see, token by token"
    yield f"whet train {shlex.quote(str(recipe))}", "train, then base and tuned answer the held-out rows"
    yield f"whet compare {shlex.quote(run)}", "the verdict again"
    yield f"whet chat {shlex.quote(run)}", "talk to the tuned model"


def _wishes(answered: Answered, run: str, seed: int, commands: list[str]) -> Wishes:
    from whet.recipe.draft import Wishes

    material, model = answered.material, answered.model
    return Wishes(
        name=material.name,
        output=run,
        seed=seed,
        minutes=answered.minutes,
        model_id=model.id,
        num_parameters=model.num_parameters,
        max_positions=model.max_positions,
        has_chat_template=model.has_chat_template,
        sets=material.sets,
        kind=material.kind,
        longest_row_bytes=material.longest_row_bytes,
        longest_answer_bytes=material.longest_answer_bytes,
        choices=material.choices,
        wants_bare_number=material.wants_bare_number,
        heading=[f"Written by whet init from {answered.data}. Type, in this folder:", "",
                 *(f"  {command}" for command in commands), ""],
    )  # fmt: skip
