"""Slurm through NeMo-Run's SlurmExecutor: its settings and the two pieces of shell that are whet's, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from whet.errors import RecipeError
from whet.launch.job import Job, node_command, shell_line

_TIME = re.compile(r"(\d+-)?\d{1,2}(:\d{2}){0,2}|\d+")
_PLAIN = re.compile(r"[\w./:@%+=,~-]*")
"""words that a shell takes as they are"""

SETUP = """\
export WHET_HEAD_NODE="${head_node_ip%% *}"
export WHET_PORT=$((20000 + SLURM_JOB_ID % 20000))

# 75: the run was interrupted, everything is saved and the same command continues
requeue_if_interrupted() {
    code=$?
    if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$code"
}
trap requeue_if_interrupted EXIT"""
"""for the batch script, once NeMo-Run has found the first node. Only an interrupted run is queued again: NeMo-Run's own
`retries` would do that with a mistake in the recipe, too."""

_SRUN = ["--wait=0", "--kill-on-bad-exit=0"]
"""the first node writes files when the others are done already; NeMo-Run's own settings would kill it then"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """What belongs to the cluster."""

    account: str
    partition: str | None = None
    time: str = "04:00:00"
    """[days-]hours:minutes:seconds"""
    warn_seconds: int = 300
    """how long before the time limit SIGUSR1 tells the ranks to save; the job then queues again"""
    qos: str | None = None
    constraint: str | None = None
    host: str | None = None
    """login node, reached by ssh; None: this machine submits"""
    user: str | None = None
    folder: str | None = None
    """where scripts and logs go on the cluster; None: NeMo-Run's home on this machine"""
    others: dict[str, Any] = field(default_factory=dict)
    """further options of sbatch"""


def check_slurm(slurm: Slurm) -> None:
    """RecipeError for what sbatch would refuse after the upload."""
    if not _TIME.fullmatch(slurm.time):
        raise RecipeError(
            f"is [days-]hours:minutes:seconds (found {slurm.time})", where="--time", mend="--time 04:00:00"
        )
    if slurm.host is not None and (slurm.user is None or slurm.folder is None):
        raise RecipeError(
            "a login node needs a user and a folder", where="--host", mend="--user NAME --folder /path/on/the/cluster"
        )


def slurm_settings(job: Job, slurm: Slurm) -> dict[str, Any]:
    """Arguments of `nemo_run.SlurmExecutor`, but for its tunnel and its packager.

    One task for each node, which starts that node's ranks itself. Variables go into the container by name; sbatch hands
    the submitter's environment over, so no value stands in the script.
    """
    _refuse_what_a_shell_reads(job, slurm)
    uses_gpus, has_container = job.gpus_per_node > 0, job.image is not None
    return {
        "account": slurm.account,
        "job_name_prefix": f"{job.name}.",
        "partition": slurm.partition,
        "time": slurm.time,
        "nodes": job.num_nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": job.gpus_per_node if uses_gpus else None,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "signal": f"USR1@{slurm.warn_seconds}",
        "container_image": job.image,
        "container_mounts": [f"{job.workdir}:{job.workdir}", *job.mounts] if has_container else [],
        "container_env": list(job.env_names) if has_container and job.env_names else None,
        "additional_parameters": {"requeue": True, "export": "ALL", **slurm.others},
        "srun_args": _SRUN,
        "setup_lines": SETUP,
    }


def _refuse_what_a_shell_reads(job: Job, slurm: Slurm) -> None:
    """RecipeError for text that NeMo-Run would put into the batch script without quotes."""
    unquoted = {"--folder": slurm.folder or ""}
    if job.image is not None:
        unquoted |= {"--image": job.image, "--workdir": job.workdir, "--mount": ",".join(job.mounts)}
    for option, text in unquoted.items():
        if not _PLAIN.fullmatch(text):
            raise RecipeError(
                f"a batch script cannot name {text!r}: letters, digits and ./:@%+=,~_- only",
                where=option,
                mend="choose a folder or name without spaces and signs that a shell reads",
            )
    # in lines that begin with #SBATCH: only the end of a line is dangerous there
    options = [
        slurm.account,
        slurm.partition,
        slurm.time,
        slurm.qos,
        slurm.constraint,
        *slurm.others,
        *slurm.others.values(),
    ]
    for text in map(str, options):
        if not text.isprintable():
            raise RecipeError(f"an option of sbatch is one line (found {text!r})", where="whet launch slurm")


def slurm_node_script(job: Job) -> str:
    """What runs on each node, in the container if there is one."""
    command = node_command(job, node_rank="$SLURM_NODEID", address="$WHET_HEAD_NODE", port="$WHET_PORT")
    # exec: signals of Slurm reach whet itself, which lets the ranks save
    return f"set -euo pipefail\ncd {shell_line([job.workdir])}\nexec {shell_line(command)}\n"
