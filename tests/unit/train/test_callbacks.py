import itertools
from pathlib import Path

from whet.train.callbacks import Callbacks, EvalRecord, QuietCallback, Requests


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
    return EvalRecord(step=step, metrics={"loss": loss}, seconds=0.1)


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
