"""The one home of NeMo-Run: a Slurm job becomes its objects, and they the batch script, which is printed or submitted.

What runs on the nodes is in an image or an environment already, so nothing is packed: NeMo-Run's plain Packager
also works outside a git folder.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from whet.errors import RecipeError, StorageError
from whet.launch.job import Job
from whet.launch.slurm import Slurm, slurm_node_script, slurm_settings
from whet.launch.submit import at_hand

TASK = "train"
_HOME = "$NEMORUN_HOME"


def slurm_at_hand(slurm: Slurm) -> bool:
    """Whether there is something to submit to."""
    return slurm.host is not None or at_hand("sbatch")


def run_slurm(job: Job, slurm: Slurm, *, is_dry: bool) -> str:
    """Submit `job`, or with `is_dry` only show what would be; returns the text to print.

    RecipeError without NeMo-Run; StorageError when the cluster refuses.
    """
    library = _library()
    if is_dry:
        with tempfile.TemporaryDirectory(prefix="whet-launch-") as home:
            folder = _submit(library, job, slurm, home=home, name=f"{job.name}_1", is_dry=True)
            text = _show(folder)
            # a login node's folder is the real one; here NeMo-Run's home stands for it
            return text.replace(home, _HOME)
    home = os.environ.get("NEMORUN_HOME", str(Path.home() / ".nemo_run"))
    folder = _submit(library, job, slurm, home=home, name=f"{job.name}_{int(time.time())}", is_dry=False)
    return f"submitted; scripts in {folder}"


def _library() -> ModuleType:
    try:
        import nemo_run
    except ImportError as error:
        raise RecipeError(
            f"Slurm is reached through NeMo-Run, which cannot be imported ({error})",
            where="whet launch slurm",
            mend="pip install 'whet[launch]'",
        ) from error
    library: ModuleType = nemo_run
    return library


def _submit(library: ModuleType, job: Job, slurm: Slurm, *, home: str, name: str, is_dry: bool) -> Path:
    """NeMo-Run's experiment of one task, dry or real; returns its folder on this machine."""
    executor = library.SlurmExecutor(
        **slurm_settings(job, slurm), tunnel=_tunnel(library, slurm, home, is_dry=is_dry), packager=library.Packager()
    )
    experiment = library.Experiment(
        job.name, executor=executor, id=name, base_dir=home, clean_mode=True, enable_goodbye_message=False,
        skip_status_at_exit=True,
    )  # fmt: skip
    with experiment:
        experiment.add(library.Script(inline=slurm_node_script(job)), name=TASK)
        if is_dry:
            experiment.dryrun(log=False, delete_exp_dir=False)
        else:
            _run(experiment)
    return Path(home) / "experiments" / job.name / name


def _tunnel(library: ModuleType, slurm: Slurm, home: str, *, is_dry: bool) -> Any:
    """How the cluster is reached; a dry run reaches nothing."""
    folder = slurm.folder or f"{home}/experiments"
    if slurm.host is None or is_dry:
        return library.LocalTunnel(job_dir=folder)
    return library.SSHTunnel(host=slurm.host, user=slurm.user, job_dir=folder)


def _run(experiment: Any) -> None:
    from invoke.exceptions import UnexpectedExit

    try:
        experiment.run(detach=True)
    except UnexpectedExit as error:
        raise StorageError(
            f"sbatch refused: {error.result.stderr.strip()}",
            where="whet launch slurm --submit",
            mend="look at the script with --dry-run; ask the cluster with sinfo and sacctmgr show assoc",
        ) from error


def _show(folder: Path) -> str:
    """The batch script, then what its srun starts on each node."""
    batch = (folder / f"{TASK}_sbatch.sh").read_text(encoding="utf-8").rstrip()
    node = (folder / TASK / "scripts" / f"{TASK}.sh").read_text(encoding="utf-8").rstrip()
    commented = "\n".join(f"#   {line}".rstrip() for line in node.splitlines())
    return f"{batch}\n\n# scripts/{TASK}.sh, on each node:\n#\n{commented}\n"
