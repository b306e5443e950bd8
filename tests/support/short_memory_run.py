"""`whet` with too little memory: `python short_memory_run.py SPEC train recipe.yaml`. SPEC is JSON:

{"rank": 1}                              only this rank (default: every one)
{"most_samples": 2, "from_step": 3, "point": "forward"}      as in short_memory.py
{"update": 4}                            none for the 4th update
{"limit_bytes": 100000000}               really: the kernel gives this process so much more address space
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from short_memory import ERRORS, ShortMemory

from whet.train import run
from whet.train.loop import Training

_build = run.build_training


def build_with_shortages(*arguments: Any, **keywords: Any) -> Training:
    """What `build_training` gives, short of memory from now on as the command line says."""
    training = _build(*arguments, **keywords)
    spec: dict[str, Any] = json.loads(os.environ["SHORT_MEMORY"])
    if spec.pop("rank", training.env.rank) != training.env.rank:
        return training
    if (limit := spec.pop("limit_bytes", None)) is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit,) * 2)
        return training
    if (number := spec.pop("update", None)) is not None:
        fail_in_update(training, number)
        return training
    ShortMemory(training, **spec)
    return training


def fail_in_update(training: Training, number: int) -> None:
    """The `number`th update has changed some weights when memory runs out."""
    update, calls = training.optimizer.step, []

    def step() -> None:
        calls.append(number)
        if len(calls) == number:
            with torch.no_grad():
                training.trainables.with_gradients[0].mul_(2)
            raise ERRORS["cuda"]()
        update()

    training.optimizer.step = step  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    os.environ["SHORT_MEMORY"] = sys.argv[1]
    sys.argv[:2] = ["whet"]
    run.build_training = build_with_shortages
    from whet.cli.main import main

    main()
