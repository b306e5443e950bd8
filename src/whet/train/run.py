"""Recipe -> objects -> loop -> final files. Every difference between kinds of runs is an object built here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from whet.checkpoint.lock import locked
from whet.checkpoint.retention import remove_leftovers
from whet.data.pipeline import PreparedData, prepare
from whet.data.sampler import Order, describe_packing, order_of
from whet.data.shared_prefix import pays
from whet.errors import InterruptedRunError
from whet.evaluation.live import live_sets
from whet.models.load import LoadedModel
from whet.models.tokenizer import load_tokenizer
from whet.optim.build import build_optimizer
from whet.parallel import env as parallel_env
from whet.parallel.collective import raise_if_lost
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.parallel.rank_files import RankFiles, begin, voice
from whet.parallel.reduce import barrier
from whet.parallel.smoke import smoke_test
from whet.parallel.status import is_relaunch
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe
from whet.shortage import told_as_error
from whet.train import finish, folder, memory_plan, on_monitor, preflight
from whet.train.best import best_of
from whet.train.callbacks import Callback, Callbacks
from whet.train.chosen import chosen
from whet.train.fit import fitted_plan
from whet.train.frozen_base import DTYPE_NAMES, load_base
from whet.train.guard import Guard
from whet.train.inputs import Inputs
from whet.train.lanes import Lanes
from whet.train.laps import Laps
from whet.train.loop import Training, train
from whet.train.memory_advice import explain_shortage
from whet.train.model_side import set_up_model, why_not_compiled
from whet.train.on_answers import OnAnswers
from whet.train.on_continue import OnContinue
from whet.train.on_watch import OnWatch
from whet.train.pace import Pace
from whet.train.placement import choose_layout
from whet.train.room import Room
from whet.train.saved_documents import read_plan
from whet.train.savers import saver_of, saves_of
from whet.train.saves import Saves
from whet.train.signals import listening
from whet.train.startup import Startup
from whet.train.state import INPUTS, Saver
from whet.train.switch_point import with_switch_point
from whet.train.together import choose_checkpoint
from whet.train.verify import verify_resume
from whet.train.witness import Witness
from whet.types import RunPlan

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line adds to a recipe."""

    fresh: bool = False
    """move an earlier run in the folder aside and start anew"""
    resume: str | None = None
    """`auto`: there must be a checkpoint to continue from; a path: continue from that one; None: if there is one"""
    accept_changes: bool = False
    """go on with other inputs (recipe, data, base, versions) than the run was begun with, and record them"""
    verify: bool = False
    """before a run goes on, make a step again that it has made already and compare all bits"""
    plan: Mapping[str, Any] | None = None
    """the recorded plan of a run that is made anew"""
    callbacks: tuple[Callback, ...] = ()
    """in addition to the recipe's; they change no weight"""
    say: Say = print
    """where sentences for people go (rank 0 only)"""
    started: float | None = None
    """when the process began, by the monotonic clock, for the account of its start-up; None: not told"""
    files: RankFiles | None = None
    """status and log of this rank"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a call of `run_recipe` ended with."""

    run_folder: Path
    is_main: bool
    """whether this process is rank 0, which does what follows training"""
    was_finished_before: bool
    steps: int
    seconds: float


def run_recipe(recipe: Recipe, options: Options | None = None) -> Outcome:
    """Train what `recipe` says into its run folder, continuing an interrupted run if there is one.

    Raises the errors of whet.errors; InterruptedRunError (exit 75) after a signal, with everything saved.
    """
    options = options or Options()
    env = parallel_env.read_env()
    say = voice(options.say if env.is_main else None, options.files)
    run_folder = Path(recipe.output)
    if is_relaunch(run_folder):
        # torchrun repeats the whole command when it restarts its ranks
        options = replace(options, fresh=False, resume=None, verify=False)
    started = time.monotonic()
    if env.is_main:
        folder.check_writable(run_folder, needed_bytes=folder.needed_bytes(recipe))
        if options.fresh and (moved := folder.set_aside(run_folder)):
            say(f"moved the earlier run to {moved}")
    device = parallel_env.choose_device(recipe.train.device, env)
    parallel_env.start(env, device, timeout_seconds=recipe.parallel.timeout_seconds, folder=run_folder)
    try:
        begin(options.files)
        with locked(run_folder, say) if env.is_main else preflight.nothing_to_lock(), told_as_error():
            if env.is_main:
                remove_leftovers(run_folder)
            found = folder.look(run_folder)
            folder.tell_fault(run_folder, found, say)
            folder.refuse_other_recipe(run_folder, recipe, is_accepting=options.accept_changes)
            if (other := folder.describe_other_ranks(run_folder, recipe)) is not None:
                say(other)
            if (
                found.is_finished
                and options.resume in (None, "auto")
                and not folder.changed_settings(run_folder, recipe)
            ):
                steps, was_finished = int(found.summary["steps"]), True
            else:
                preflight.say_if_flattered(recipe, say)
                steps, was_finished = _train(recipe, options, env, device, run_folder, say), False
            if env.is_main:
                for sentence in folder.read_summary(run_folder).get("sentences", ()):
                    say(sentence)
    except RuntimeError as error:
        raise_if_lost(error)
        raise
    finally:
        parallel_env.stop()
    return Outcome(
        run_folder=run_folder,
        is_main=env.is_main,
        was_finished_before=was_finished,
        steps=steps,
        seconds=time.monotonic() - started,
    )


def _train(recipe: Recipe, options: Options, env: Env, device: torch.device, run_folder: Path, say: Say) -> int:
    preflight.refuse_uneven_ranks(recipe, env)
    startup = Startup(say, started=options.started)
    network = smoke_test(device, say)
    num_threads = preflight.set_threads(recipe.train.threads, env, device, say)
    checkpoint, ignored = choose_checkpoint(run_folder, options.resume, env, say)
    preflight.refuse_other_start(checkpoint, env)
    inputs = Inputs(checkpoint, is_accepting=options.accept_changes, say=say)
    torch.manual_seed(recipe.seed)  # torch's own first seed is another one in every process
    # rows first: what is wrong with them is said before gigabytes of weights are read
    text_side = load_tokenizer(recipe.model)
    inputs.look_early(recipe, text_side.folder, base_folder=Path.cwd())
    data = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=Path.cwd(), say=say)
    startup.reached("rows")
    layout = choose_layout(recipe, env, device, text_side.folder, say)
    say(f"loading {recipe.model.id}")
    # what will lie in parts on several GPUs may not fit on one
    place = torch.device("cpu") if layout.mesh is not None else device
    saved = read_plan(checkpoint) if checkpoint else options.plan
    base = load_base(recipe, place, data.train.samples, kept=saved.get("not_in_float8") if saved else None)
    loaded = preflight.follow_template(base.loaded, recipe.data, data.template)
    startup.reached("model")
    order = order_of(recipe, data.train)
    plan = _plan(recipe, env, layout, device, loaded, data, order, saved, inputs, num_threads=num_threads, say=say)
    plan = replace(plan, not_in_float8=base.kept)
    for note in (*data.notes, describe_packing(order, plan.micro_batch, shares_prefix=plan.share_prefix)):
        say(note)
    monitor, answers = on_monitor.Monitor(recipe, run_folder, env=env, say=say), OnAnswers(run_folder, env)
    continued = OnContinue(run_folder, ignored=ignored, changes=inputs.changes)
    acting, guard = chosen(recipe), Guard(recipe.train.guard, run_folder=run_folder, is_main=env.is_main)
    told = (startup, monitor, answers, OnWatch(options.files), Witness(run_folder, env), continued, guard)
    callbacks = Callbacks([*told, *options.callbacks, *acting])
    training = build_training(
        recipe, plan, env, layout, device, loaded, data, order, callbacks, is_restored=checkpoint is not None
    )
    startup.reached("adapter")
    live = live_sets(
        recipe, data, loaded, precision=partial(training.loss_model.precision, device.type), layout=layout,
        progress=monitor.answering, show=answers.hear,
    )  # fmt: skip
    if recipe.train.fit_seconds is not None and saved is None:
        plan = fitted_plan(recipe, training, loaded, run_folder, say)
    saver = saver_of(recipe, run_folder, training, plan, loaded, data, inputs)
    saves = saves_of(saver, training)
    training = replace(training, plan=plan, saves=saves, live=live, guard=guard, startup_seconds=startup.seconds)
    training.room.recall(run_folder, plan, is_main=env.is_main)
    first_step = saver.restore(checkpoint) if checkpoint else 0
    if options.verify and checkpoint is not None:
        verify_resume(training, saver, checkpoint, acting, say)
    barrier()  # every rank has looked into the folder; from here on rank 0 changes it
    if env.is_main:
        folder.begin(run_folder, saver.recipe_yaml)
        preflight.write_facts(run_folder, plan, data, loaded, device, network)
        folder.write_json(run_folder / INPUTS, saver.inputs)
        if checkpoint is not None:
            saver.go_on_from(checkpoint, say)
    say(f"{'continuing after' if first_step else 'training from'} step {first_step} of {plan.total_steps}")
    return _loop_and_finish(training, first_step, run_folder, loaded, saver, final=recipe.train.final)


def _plan(
    recipe: Recipe, env: Env, layout: Layout, device: torch.device, loaded: LoadedModel, data: PreparedData,
    order: Order, saved: Mapping[str, Any] | None, inputs: Inputs, *, num_threads: int, say: Say,
) -> RunPlan:  # fmt: skip
    """The arithmetic of the run and what is measured once; a continued run keeps what its plan says."""
    plan = resolve(
        recipe,
        world_size=layout.num_data_ranks,
        num_samples=order.num_units,
        device=device.type,
        compute_dtype=DTYPE_NAMES[loaded.compute_dtype],
        num_threads=num_threads,
    )
    inputs.look_late(loaded, data, plan)
    if saved is not None:
        plan = preflight.continued_plan(recipe, plan, saved, is_changed=bool(inputs.changes))
        inputs.refuse_nothing_left(plan.total_steps)
    else:
        plan = measured_plan(recipe, plan, env, layout, device, loaded, data, order, say)
    return replace(plan, is_compiled=recipe.train.compile and why_not_compiled(recipe, plan, layout) is None)


def measured_plan(
    recipe: Recipe, plan: RunPlan, env: Env, layout: Layout, device: torch.device, loaded: LoadedModel,
    data: PreparedData, order: Order, say: Say,
) -> RunPlan:  # fmt: skip
    """What a new run decides by its rows, the free memory and a few products of this machine."""
    plan = replace(plan, share_prefix=pays(recipe.batch.share_prefix, order.shared_prefix, order.lengths))
    plan = memory_plan.decide(
        recipe, plan, loaded=loaded, order=order, num_taught=data.train.num_taught, env=env, device=device,
        layout=layout, say=say,
    )  # fmt: skip
    return with_switch_point(plan, loaded, data, env)


def build_training(
    recipe: Recipe, plan: RunPlan, env: Env, layout: Layout, device: torch.device, loaded: LoadedModel,
    data: PreparedData, order: Order, callbacks: Callbacks, *, is_restored: bool,
) -> Training:  # fmt: skip
    """What `train` needs; nothing is asked of a run folder, so benchmarks build theirs with it."""
    side = set_up_model(
        recipe, plan, loaded, layout, device, data.train.samples, order, is_restored=is_restored
    )  # fmt: skip
    trainables = side.trainables
    has_lanes = plan.num_lanes > 1 and device.type == "cpu" and layout.mesh is None
    optimizer = build_optimizer(
        trainables.named, recipe.optim, lr_ratio=recipe.adapter.lr_ratio, weights=trainables.weights, seed=recipe.seed
    )
    return Training(
        plan=plan,
        optim=recipe.optim,
        env=env,
        device=device,
        model=loaded.model,
        loss_model=side.loss_model,
        kernels=side.kernels,
        trainables=trainables,
        optimizer=optimizer,
        dropout=side.dropout,
        samples=data.train.samples,
        num_taught=data.train.num_taught,
        order=order,
        validation=data.validation.samples if data.validation else (),
        live=(),
        callbacks=callbacks,
        best=best_of(recipe),
        saves=Saves(_not_saved, run_folder=Path(recipe.output), env=env, callbacks=callbacks),
        layout=layout,
        sharding=side.sharding,
        split=side.split,
        lanes=Lanes(plan.num_lanes, plan.num_threads) if has_lanes else None,
        room=Room(partial(explain_shortage, recipe, plan, loaded, layout, device)),
        laps=Laps(device),
        pace=Pace(env.rank, env.world_size),
    )


def _loop_and_finish(
    training: Training, first_step: int, run_folder: Path, loaded: LoadedModel, saver: Saver,
    *, final: Literal["last", "best"],
) -> int:  # fmt: skip
    with listening() as stop:
        try:
            with training.room.explained("training, outside of passes"):
                done = train(training, first_step=first_step, stop=stop)
        except BaseException as error:
            training.callbacks.on_error(error)
            raise
    is_complete = done == training.plan.total_steps or training.best.is_out_of_patience
    if training.env.is_main:
        final_step = None
        if is_complete:
            final_step, saved = saver.end_with(final, done=done)
            finish.write_final(run_folder, training, loaded, saver.files, saved)
        status = "finished" if is_complete else "interrupted"
        finish.write_summary(run_folder, training, status=status, steps=done, final_step=final_step)
    if not is_complete:
        raise InterruptedRunError(
            f"stopped after step {done} of {training.plan.total_steps} as asked; the state is saved",
            where=str(run_folder),
            mend="give the same command again to continue",
        )
    return done


def _not_saved(_step: int) -> Callable[[], None]:
    raise AssertionError("the saver is set before training starts")
