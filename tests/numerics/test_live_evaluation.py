"""Laws of answers in training: they are the merged model's, and training is the same with them and without."""

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    LORA,
    attach,
    build_training,
    loss_model_of,
    make_plan,
    make_samples,
    perturb,
    run_steps,
    tiny_llama,
    values,
)
from tiny_live import make_live, make_rows

from whet.data.packing import pack
from whet.evaluation.answers import write
from whet.evaluation.metrics import METRICS
from whet.kernels import attention, select
from whet.models.adapter_init import START_NAME
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_NAME, train_all_weights
from whet.models.merge import merge_adapter
from whet.optim.build import optimizer_tensors
from whet.parallel.env import Env
from whet.recipe.schema import Adapter
from whet.tracking.samples import NUM_ROWS as NUM_SHOWN
from whet.train.best import Best
from whet.train.callbacks import EvalRecord
from whet.train.held_out import measure
from whet.train.loop import train
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.types import TokenizedSample

ADAPTERS = {
    "lora": Adapter(rank=4, alpha=8.0, dropout=0.4),
    "pissa, rank-stabilised": Adapter(rank=4, alpha=8.0, init="pissa", rslora=True, dropout=0.4),
    "lora_ga": Adapter(rank=4, alpha=8.0, init="lora_ga", dropout=0.4),
    "dora and norms": Adapter(rank=4, alpha=8.0, method="dora", also_train=("norms",), dropout=0.4),
}
NUM_ROWS = 8


def _attached(adapter, dtype=torch.float32):
    """A model in training mode with a trained adapter, and what is saved of it."""
    model = tiny_llama(dtype)
    trainables = attach(model, adapter)
    perturb(trainables, size=0.15)
    select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
    return model.train(), trainables


def _texts(model):
    live = make_live(model, make_rows(["?"] * NUM_ROWS))
    questions = live.questions
    return [
        g.text
        for g in write(
            questions.examples, questions.prompts, live.loaded, questions.decoding, stop_ids=questions.stop_ids
        )
    ]


@pytest.mark.parametrize("name", ADAPTERS)
def test_answers_through_the_attached_adapter_are_those_of_the_merged_model(name):
    model, trainables = _attached(ADAPTERS[name])
    base, merged = _prepared(tiny_llama(torch.float32)), _prepared(tiny_llama(torch.float32))
    merge_adapter(merged, trainables.documents[ADAPTER_CONFIG], trainables.tensors())
    expected = _written(merged)
    assert sum(a != b for a, b in zip(expected, _written(base), strict=True)) > NUM_ROWS / 2
    assert _written(model) == expected
    assert model.training


def _written(model, **options):
    """Token ids of a live measurement's answers."""
    written = []
    with _generations(written):
        make_live(model, make_rows(["?"] * NUM_ROWS), **options).measure()
    return written


def _prepared(model):
    attention.install(model)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ADAPTERS, "all weights"])
def test_every_token_is_the_training_paths_own_choice(name, dtype):
    """Teacher-forced through the packed forward pass of training, in evaluation mode: no cache, no left-over mask."""
    if name == "all weights":
        model = tiny_llama(dtype)
        train_all_weights(model)
        select.install(model, adapter_name=None)
        model.train()
    else:
        model, _ = _attached(ADAPTERS[name], dtype)
    is_wider = name == "all weights" and dtype == torch.bfloat16
    loss_model = loss_model_of(model)
    loss_model.compute_dtype, loss_model.uses_autocast = dtype, is_wider
    prompts = make_live(model, make_rows(["?"] * NUM_ROWS)).questions.prompts
    written = _written(model, precision=partial(loss_model.precision, "cpu"))
    model.eval()
    for prompt, ids in zip(prompts, written, strict=True):
        whole = np.array([*prompt, *ids], dtype=np.int32)
        sample = TokenizedSample(id="row", ids=whole, taught=np.arange(len(whole)) >= len(prompt))
        with torch.no_grad():
            hidden_TE = loss_model.hidden(pack([sample], torch.device("cpu")))
            with loss_model.precision("cpu"):
                logits_TV = model.get_output_embeddings()(hidden_TE[len(prompt) - 1 : -1]).float()
        chosen_T = logits_TV.gather(1, torch.tensor(ids)[:, None])[:, 0]
        worst = (logits_TV.max(-1).values - chosen_T).max()
        assert worst <= (1e-4 if dtype == torch.float32 else 0.03) * logits_TV.abs().max()


class _generations:  # noqa: N801
    """While inside, the token ids that the engine writes are kept in the given list."""

    def __init__(self, kept):
        self._kept, self._patch = kept, pytest.MonkeyPatch()

    def __enter__(self):
        from whet.evaluation import answers

        engine = answers.generate

        def keep(*args, **kwargs):
            completions = engine(*args, **kwargs)
            self._kept += [completion.ids for completion in completions]
            return completions

        self._patch.setattr(answers, "generate", keep)

    def __exit__(self, *_):
        self._patch.undo()


def _trained(*, with_answers, steps=(0, 1, 2, 3)):
    """SHA-256 of weights, Adam's moments and random state after a few steps with dropout, and the steps' records."""
    torch.manual_seed(5)
    training = build_training(
        tiny_llama(torch.float32), make_samples([9, 5, 7, 11, 6, 8]),
        make_plan(6, micro_batch=1, global_batch=2, total_steps=4), adapter=ADAPTERS["lora"],
    )  # fmt: skip
    if with_answers:
        rows = make_rows(["?"] * 5)
        live = [make_live(training.model, rows, metrics=("bleu", "loss", "stop_rate"), every=2, temperature=0.7)]
        training = dataclasses.replace(training, live=live)
        assert train(training, first_step=0, stop=StopRequest()) == 4
    else:
        run_steps(training, steps)
    digest = hashlib.sha256(values(training).numpy().tobytes())
    for name, tensor in sorted(optimizer_tensors(training.optimizer, training.trainables.named).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def test_training_is_the_same_to_the_last_bit_with_answers_and_without(monkeypatch):
    """A metric may draw, as the layers of an encoder do when they are made."""
    drawing = dataclasses.replace(METRICS["bleu"], score_rows=lambda rows: torch.rand(len(rows)).tolist())
    monkeypatch.setitem(METRICS, "bleu", drawing)
    before = torch.get_rng_state()
    try:
        assert _trained(with_answers=True) == _trained(with_answers=False)
    finally:
        torch.set_rng_state(before)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_goes_back_to_the_mode_it_was_in(is_training):
    model, _ = _attached(LORA)
    model.train(is_training)
    make_live(model, make_rows(["?"] * 3)).measure()
    assert {module.training for module in model.modules()} == {is_training}


def test_answers_are_judged_against_their_own_golds_in_the_order_of_the_rows():
    model, _ = _attached(LORA)
    texts = _texts(model)
    numbers = make_live(model, make_rows([*texts[:5], "no", "no", "no"]), metrics=("exact_match", "loss")).measure()
    golds = make_live(model, make_rows(texts[:5]), metrics=("loss",)).measure()
    assert numbers["exact_match"] == 5 / 8
    assert golds["loss"] < numbers["loss"]


def test_the_first_answers_are_shown_the_same_rows_every_time_with_or_without_right_and_wrong():
    model, _ = _attached(LORA)
    shown = []
    for metrics in (("answer_accuracy",), ("answer_accuracy",), ("exact_match",)):
        live = make_live(model, make_rows(["?"] * NUM_ROWS), metrics=metrics)
        dataclasses.replace(live, show=shown.append).measure()
    assert [[answer.id for answer in answers] for answers in shown] == [[f"row-{n}" for n in range(NUM_SHOWN)]] * 3
    assert shown[0] == shown[1] and [answer.text for answer in shown[0]] == _texts(model)[:NUM_SHOWN]
    assert {type(answer.is_correct) for answer in shown[0]} == {bool}
    assert {answer.is_correct for answer in shown[2]} == {None}
    assert shown[0][1].prompt.startswith("1 and 2?")


def test_what_is_due_is_measured_and_what_is_asked_for_is_all():
    training = build_training(
        tiny_llama(torch.float32), make_samples([9, 5]), make_plan(2, micro_batch=1, global_batch=2, total_steps=9),
        adapter=LORA, validation=make_samples([7, 8], seed=3),
    )  # fmt: skip
    live = make_live(training.model, make_rows(["?", "!"]), metrics=("stop_rate",), every=3)
    training = dataclasses.replace(training, live=[live], plan=dataclasses.replace(training.plan, eval_every=2))
    found = {step: measure(training, step, is_asked=False) for step in range(1, 10)}
    loss, answers = {"loss", "token_accuracy", "num_taught"}, {"stop_rate"}
    names = {step: set(record.metrics) for step, record in found.items() if record}
    assert names == {2: loss, 3: answers, 4: loss, 6: loss | answers, 8: loss, 9: loss | answers}
    asked = measure(training, 1, is_asked=True)
    assert isinstance(asked, EvalRecord) and set(asked.metrics) == loss | answers and asked.step == 1


def test_a_run_stops_after_the_measurement_that_costs_its_patience_and_not_again_when_continued(monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.5, 1.0])
    monkeypatch.setattr("whet.train.held_out.evaluate_loss", lambda _run, _step: {"loss": next(losses)})
    training = build_training(
        tiny_llama(torch.float32), make_samples([5] * 9), make_plan(9, micro_batch=1, global_batch=1), adapter=LORA,
        validation=make_samples([7], seed=3), best=Best(patience=2),
    )  # fmt: skip
    saved = []
    saves = Saves(lambda step: partial(saved.append, step), run_folder=Path(), env=Env(), callbacks=training.callbacks)
    plan = dataclasses.replace(training.plan, eval_every=1)
    training = dataclasses.replace(training, plan=plan, saves=saves)
    assert train(training, first_step=0, stop=StopRequest()) == 4
    assert (training.best.step, training.best.value) == (2, 2.0)
    assert saved == [1, 2, 4], "new bests and the end"
    assert train(training, first_step=4, stop=StopRequest()) == 4
