"""What writes a run's checkpoints, made of its parts: the saver, which knows what they hold, and the saves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from whet.data.pipeline import PreparedData
from whet.models.load import LoadedModel
from whet.recipe import dump_recipe
from whet.recipe.schema import Recipe
from whet.train import finish
from whet.train.inputs import Inputs
from whet.train.loop import Training
from whet.train.saves import Saves
from whet.train.sound import refuse_broken
from whet.train.spread import spread_of
from whet.train.state import Saver
from whet.types import RunPlan


def saver_of(
    recipe: Recipe, run_folder: Path, training: Training, plan: RunPlan, loaded: LoadedModel, data: PreparedData,
    inputs: Inputs,
) -> Saver:  # fmt: skip
    """What the checkpoints of this run hold. All ranks must call it."""
    return Saver(
        run_folder=run_folder,
        plan=plan,
        keep=recipe.train.keep,
        trainables=training.trainables,
        optimizer=training.optimizer,
        callbacks=training.callbacks,
        best=training.best,
        identity=loaded.identity,
        data_fingerprint=data.train.fingerprint,
        recipe_yaml=dump_recipe(recipe),
        inputs=inputs.document(),
        files=finish.tokenizer_files(loaded.tokenizer, run_folder) if training.env.is_main else {},
        env=training.env,
        spread=spread_of(training.trainables, training.layout),
        room=training.room,
    )


def saves_of(saver: Saver, training: Training) -> Saves:
    """The checkpoints in the course of the run, written beside training; none of a state that is not finite."""
    return Saves(
        saver.hold,
        run_folder=saver.run_folder,
        env=training.env,
        callbacks=training.callbacks,
        is_spread=saver.spread is not None,
        join=saver.join if saver.is_sharded else None,
        check=partial(refuse_broken, training.trainables, training.optimizer, saver.run_folder),
    )
