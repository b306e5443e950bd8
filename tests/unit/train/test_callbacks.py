import itertools
from pathlib import Path

from whet.train.callbacks import Best, Callbacks, EvalRecord, QuietCallback, Requests


class Noisy(QuietCallback):
    def __init__(self, name, told, requests=None):
        self.name, self.told, self.requests = name, told, requests or Requests()
        self.loaded = None

    def __getattribute__(self, attribute):
        found = object.__getattribute__(self, attribute)
        if attribute.startswith("on_"):
            self.told.append((self.name, attribute))
        return found

    def after_step(self, record):
        return self.requests

    def state(self):
        return {"of": self.name}

    def load_state(self, state):
        self.loaded = state


def _evaluated(step, loss):
    return EvalRecord(step=step, loss=loss, token_accuracy=0.5, num_taught=10, seconds=0.1)


def test_every_event_reaches_every_callback_in_order():
    told = []
    callbacks = Callbacks([Noisy("a", told), Noisy("b", told)])
    callbacks.on_start(None, 0)
    callbacks.on_event(1, "something")
    callbacks.on_evaluated(_evaluated(1, 1.0))
    callbacks.on_checkpoint_saved(1, Path("x"))
    callbacks.on_error(ValueError())
    callbacks.on_stop(1)
    events = ["on_start", "on_event", "on_evaluated", "on_checkpoint_saved", "on_error", "on_stop"]
    assert told == [(name, event) for event in events for name in "ab"]


def test_requests_of_all_callbacks_are_put_together():
    callbacks = Callbacks([Noisy("a", [], Requests(save=True)), Noisy("b", [], Requests(stop=True))])
    assert callbacks.after_step(None) == Requests(save=True, stop=True)


def test_or_is_field_by_field():
    for a, b in itertools.product(itertools.product([False, True], repeat=3), repeat=2):
        names = ("stop", "save", "evaluate")
        either = Requests(**dict(zip(names, a, strict=True))) | Requests(**dict(zip(names, b, strict=True)))
        assert (either.stop, either.save, either.evaluate) == tuple(x or y for x, y in zip(a, b, strict=True))


def test_state_goes_back_to_its_own_callback_by_name():
    a, b = Noisy("a", []), Noisy("b", [])
    state = Callbacks([a, b]).state()
    assert state == {"a": {"of": "a"}, "b": {"of": "b"}}
    Callbacks([b, a]).load_state(state)
    assert (a.loaded, b.loaded) == ({"of": "a"}, {"of": "b"})
    Callbacks([a]).load_state({})
    assert a.loaded == {}


def test_the_best_is_the_lowest_loss_and_the_first_of_equals():
    best = Best()
    assert [best.note(_evaluated(step, loss)) for step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0])] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert (best.step, best.loss) == (4, 1.0)
    assert not best.note(_evaluated(9, float("nan")))
    assert best.step == 4


def test_a_first_loss_that_is_not_a_number_is_not_the_best():
    best = Best()
    assert not best.note(_evaluated(1, float("nan")))
    assert best.step is None
