from __future__ import annotations

import subprocess
import sys
import time

import pytest

from whet.train.callbacks import Callbacks
from whet.train.startup import Startup, process_start, sentence


def test_phases_follow_one_another_without_a_gap():
    said, began = [], time.monotonic()
    startup = Startup(said.append, started=began - 2.0)
    for phase in ("rows", "model"):
        time.sleep(0.02)
        startup.reached(phase)
    callbacks = Callbacks([startup])
    callbacks.on_start(None, 0)
    assert said == []
    callbacks.after_step(None)
    callbacks.after_step(None)
    assert list(startup.seconds) == ["imports", "rows", "model", "plan", "first step"]
    assert sum(startup.seconds.values()) == pytest.approx(time.monotonic() - began + 2.0, abs=0.02)
    assert len(said) == 1 and said[0].startswith("ready in 2.")


def test_what_came_before_is_left_out_where_it_is_not_known():
    assert Startup(print, started=None).seconds == {}


def test_the_sentence_names_each_phase():
    seconds = {"imports": 2.94, "rows": 0.4, "first step": 1.1}
    assert sentence(seconds) == "ready in 4.4 s: imports 2.9, rows 0.4, first step 1.1"


def test_the_age_of_a_process_counts_from_its_start_and_survives_a_replacement():
    code = "import os, sys, time; time.sleep(0.3); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    asks = "import time; from whet.train.startup import process_start; print(time.monotonic() - process_start())"
    before = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code, asks], capture_output=True, text=True, check=True).stdout
    assert 0.3 <= float(told) <= time.monotonic() - before + 0.02
    assert process_start() is not None
