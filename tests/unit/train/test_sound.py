"""No checkpoint of a state that is not finite, nor a copy of one as the best."""

import dataclasses
import math

import pytest
import torch
from guarded import guarded, run, saver_of
from safetensors.torch import load_file
from tiny import make_samples

from whet.checkpoint.names import list_steps
from whet.errors import NonFiniteError
from whet.parallel.env import Env
from whet.train.callbacks import QuietCallback
from whet.train.saves import Saves
from whet.train.sound import refuse_broken, state_tensors


class Damage(QuietCallback):
    """Breaks one value right after an update, where no loss has shown it yet."""

    def __init__(self, what, step):
        self.what, self.step, self.run = what, step, None

    def on_start(self, run, step):
        self.run = run

    def after_step(self, record):
        if record.step == self.step:
            parameter = list(self.run.trainables.named.values())[-1]
            broken = {
                "weights": parameter, "moments": self.run.optimizer.state[parameter]["exp_avg_sq"]
            }[self.what]  # fmt: skip
            with torch.no_grad():
                broken.view(-1)[-1] = math.inf
        return super().after_step(record)


@pytest.mark.parametrize("what", ["weights", "moments"])
def test_no_checkpoint_holds_what_is_not_finite(tmp_path, what):
    training, _ = guarded(None, callbacks=[Damage(what, 4)], validation=make_samples([6]))
    plan = dataclasses.replace(training.plan, save_every=1, eval_every=1)
    saver = saver_of(training, tmp_path)
    saves = Saves(
        saver.hold, run_folder=tmp_path, env=Env(), callbacks=training.callbacks,
        check=lambda step: refuse_broken(training.trainables, training.optimizer, tmp_path, step),
    )  # fmt: skip
    training = dataclasses.replace(training, plan=plan, saves=saves)
    with pytest.raises(NonFiniteError, match=r"after step 4 .* holds NaN or infinity; nothing of it was saved"):
        run(training)
    assert list_steps(tmp_path) == [3, 2, 1]
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) > 9, "three checkpoints and the best one"
    for path in files:
        for tensor in load_file(path).values():
            assert bool(torch.isfinite(tensor.double()).all()), path


def test_every_trained_tensor_and_moment_is_looked_at():
    training, _ = guarded(None)
    num_trained = len(training.trainables.named)
    assert len(dict(state_tensors(training.trainables, training.optimizer))) == num_trained
    run(dataclasses.replace(training, plan=dataclasses.replace(training.plan, total_steps=1)))
    # two moments and a number of steps each
    assert len(dict(state_tensors(training.trainables, training.optimizer))) == 4 * num_trained
