"""Ranks meet in a store that may hold words of ranks that are long gone."""

import threading
import time

import pytest

from whet.parallel import meeting


class Store:
    """What torch's store does, in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.changed = threading.Condition()

    def set(self, key, value):
        with self.changed:
            self.content[key] = value.encode()
            self.changed.notify_all()

    def get(self, key):
        return self.content[key]

    def check(self, keys):
        return all(key in self.content for key in keys)

    def wait(self, keys, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: self.check(keys), timeout.total_seconds()):
                raise RuntimeError("wait timeout")


def come(store, rank, cards, *, after=0.0):
    def arrive():
        time.sleep(after)
        card = meeting.knock(store, rank=rank, seconds=5)
        cards[rank] = card
        meeting.thank(store, rank=rank, card_id=card)

    thread = threading.Thread(target=arrive)
    thread.start()
    return thread


def meet(store, *, delays):
    """The cards that ranks 1, 2, ... got from a rank 0 with a fresh card."""
    card, cards = meeting.new_id(), {}
    threads = [come(store, rank, cards, after=delay) for rank, delay in enumerate(delays, start=1)]
    missing = meeting.receive(store, card=card, card_id=card, num_ranks=len(delays) + 1, seconds=5)
    for thread in threads:
        thread.join()
    assert missing == []
    return card, cards


def test_all_ranks_get_the_card_of_this_rank_0_although_earlier_ones_met_in_the_same_store():
    store, seen = Store(), set()
    for delays in ((0.0, 0.05), (0.1, 0.0), (0.05,), (0.0, 0.1, 0.0)):
        card, cards = meet(store, delays=delays)
        assert set(cards.values()) == {card} and len(cards) == len(delays)
        seen.add(card)
    assert len(seen) == 4


def test_a_rank_that_comes_first_waits_for_the_new_rank_0_and_does_not_take_the_old_card():
    store = Store()
    old, _ = meet(store, delays=(0.0,))
    cards = {}
    early = come(store, 1, cards)
    time.sleep(0.2)
    assert cards == {}
    new = meeting.new_id()
    assert meeting.receive(store, card=new, card_id=new, num_ranks=2, seconds=5) == []
    early.join()
    assert cards == {1: new} and new != old


def test_who_does_not_come_is_named_although_an_earlier_rank_of_that_number_knocked():
    store = Store()
    meet(store, delays=(0.0, 0.0))
    card, cards = meeting.new_id(), {}
    thread = come(store, 1, cards)
    assert meeting.receive(store, card=card, card_id=card, num_ranks=4, seconds=0.3) == [2, 3]
    thread.join()


def test_without_a_rank_0_the_others_end():
    with pytest.raises(RuntimeError, match="timeout"):
        meeting.knock(Store(), rank=1, seconds=0.05)
