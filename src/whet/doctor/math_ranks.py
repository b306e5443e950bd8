"""One step of a small problem by two processes; `python -m whet.doctor.math_ranks FOLDER` is one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import load_file, save_file

from whet.children import end
from whet.doctor.math_laws import StepOutcome, one_step
from whet.doctor.small_problem import Problem, build, num_units, parse_problem
from whet.errors import PeerLostError
from whet.parallel import env as parallel_env
from whet.parallel.mesh import layout_of
from whet.parallel.place import read_env
from whet.recipe.schema import Parallel

NUM_RANKS = 2
_SECONDS = 180


class Ranks:
    """A context: two processes at work from its beginning on; `outcome` waits for them."""

    def __init__(self, problem: Problem, folder: Path) -> None:
        self._folder = folder
        (folder / "problem.json").write_text(problem.dumped(), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = os.environ | {
            "WORLD_SIZE": str(NUM_RANKS), "LOCAL_WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-P", "-m", "whet.doctor.math_ranks", str(folder)]
        self._ranks = [
            subprocess.Popen(  # noqa: S603 - this Python and a module of ours
                command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )
            for rank in range(NUM_RANKS)
        ]  # fmt: skip

    def outcome(self) -> StepOutcome:
        """What rank 0 found; PeerLostError with the words of a rank that failed."""
        deadline = time.monotonic() + _SECONDS
        for number, rank in enumerate(self._ranks):
            try:
                _, said = rank.communicate(timeout=max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise PeerLostError(
                    f"rank {number} of the two did not answer within {_SECONDS} s", mend="see whet doctor --dist"
                ) from error
            if rank.returncode != 0:
                raise PeerLostError(
                    f"rank {number} of the two ended with {rank.returncode}: {said.strip()[-2000:]}",
                    mend="see whet doctor --dist --nproc 2",
                )
        tensors = load_file(self._folder / "outcome.safetensors")
        return StepOutcome(loss=float(tensors["loss"]), gradient_P=tensors["gradient"])

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rank in self._ranks:
            end(rank)
            if rank.stderr is not None:
                rank.stderr.close()


def main(folder: Path) -> None:
    """One rank."""
    torch.set_num_threads(1)
    problem = parse_problem((folder / "problem.json").read_text(encoding="utf-8"))
    env = read_env()
    parallel_env.start(env, torch.device("cpu"))
    try:
        units = num_units(problem)
        layout = layout_of(Parallel(), env, strategy="replicate")
        micro = max(1, units // (2 * NUM_RANKS))
        outcome = one_step(build(problem, units_per_step=units, micro=micro, layout=layout, env=env))
    finally:
        parallel_env.stop()
    if env.is_main:
        loss = torch.tensor(outcome.loss, dtype=torch.float64)
        save_file({"loss": loss, "gradient": outcome.gradient_P}, folder / "outcome.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
