"""SkyPilot: a task for `sky jobs launch` as plain data, which starts again what was interrupted (exit code 75).

NeMo-Run's executor for SkyPilot needs the whole of SkyPilot to print anything, takes nothing but a git archive and
writes the values of variables into the task; here they are handed over by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from whet.errors import RecipeError
from whet.launch.job import Job, node_command, shell_line

_INTERRUPTED = 75
_RUNS = "/runs"
"""where the bucket is mounted"""


class _Blocks(yaml.SafeDumper):
    """Plain values only; a text of several lines stands as it is."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyPilot:
    """What to rent."""

    accelerator: str | None = None
    """`H100`; how many of them a machine has is `Job.gpus_per_node`"""
    infra: str | None = None
    """`aws/us-east-1`, `k8s`, ...; None: wherever it is cheapest"""
    use_spot: bool = False
    bucket: str | None = None
    """`s3://...` or `gs://...`, mounted as /runs: what outlives the machines"""


def skypilot_task(job: Job, sky: SkyPilot) -> str:
    """The task's YAML."""
    if job.gpus_per_node > 0 and not sky.accelerator:
        raise RecipeError("says which GPU", where="--accelerator", mend="--accelerator H100; sky show-gpus lists them")
    if sky.use_spot and sky.bucket is None:
        raise RecipeError(
            "spot machines take their disks with them when they go",
            where="--spot",
            mend=f"--bucket s3://NAME output={_RUNS}/{job.name}",
        )
    if sky.bucket is not None and not job.output.startswith(f"{_RUNS}/"):
        raise RecipeError(
            f"{job.output} is not in the bucket, which is mounted as {_RUNS}",
            where="output",
            mend=f"output={_RUNS}/{job.name}",
        )
    document: dict[str, Any] = {
        "name": job.name,
        "num_nodes": job.num_nodes,
        "workdir": ".",
        "resources": _resources(job, sky),
        # null: the value is taken from the variable of that name where `sky jobs launch --secret NAME` is typed
        **({"secrets": dict.fromkeys(job.env_names)} if job.env_names else {}),
        "file_mounts": _mounts(job, sky),
        "run": _run(job),
    }
    kept = {key: value for key, value in document.items() if value != {}}
    return yaml.dump(kept, Dumper=_Blocks, sort_keys=False, width=1000)


def skypilot_command(job: Job, task_file: str) -> list[str]:
    """What submits the task."""
    secrets = [word for name in job.env_names for word in ("--secret", name)]
    return ["sky", "jobs", "launch", "--yes", "--name", job.name, *secrets, task_file]


def _resources(job: Job, sky: SkyPilot) -> dict[str, Any]:
    uses_gpus = job.gpus_per_node > 0
    return {
        **({"infra": sky.infra} if sky.infra else {}),
        **({"accelerators": f"{sky.accelerator}:{job.gpus_per_node}"} if uses_gpus else {}),
        "image_id": f"docker:{job.image}",
        **({"use_spot": True} if sky.use_spot else {}),
        "job_recovery": {"recover_on_exit_codes": [_INTERRUPTED]},
    }


def _mounts(job: Job, sky: SkyPilot) -> dict[str, Any]:
    mounts: dict[str, Any] = {target: source for source, _, target in (mount.partition(":") for mount in job.mounts)}
    if sky.bucket is not None:
        # cached: a plain mount cannot rename, which is how checkpoints become whole
        mounts[_RUNS] = {"source": sky.bucket, "mode": "MOUNT_CACHED"}
    return mounts


def _run(job: Job) -> str:
    command = node_command(job, node_rank="$SKYPILOT_NODE_RANK", address="$WHET_HEAD_NODE")
    head = 'WHET_HEAD_NODE="$(head -n 1 <<< "$SKYPILOT_NODE_IPS")"\n' if job.num_nodes > 1 else ""
    return f"set -euo pipefail\n{head}exec {shell_line(command)}\n"
