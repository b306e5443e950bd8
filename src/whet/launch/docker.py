"""One machine with a container engine: the `docker run` command, which passes whet's exit code on."""

from __future__ import annotations

from dataclasses import dataclass

from whet.errors import RecipeError
from whet.launch.job import Job, node_command

_IMAGES = {True: "whet:gpu", False: "whet:cpu"}
"""uses GPUs -> what docker/Dockerfile.gpu and docker/Dockerfile.cpu are built as"""
_CACHE = "/cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """What belongs to this machine."""

    user: str
    """UID:GID that owns what is written"""
    cache: str
    """folder of models and datasets on this machine, kept between runs"""
    stop_seconds: int = 300
    """how long `docker stop` waits for the ranks to save"""


def docker_command(job: Job, docker: Docker) -> list[str]:
    """The whole command line as a list. RecipeError for several machines: one engine knows one."""
    if job.num_nodes != 1:
        raise RecipeError(
            f"docker runs on one machine (found {job.num_nodes} nodes)",
            where="--nodes",
            mend="whet launch slurm, kubernetes or skypilot; or this command on each machine with whet launch local",
        )
    uses_gpus = job.gpus_per_node > 0
    mounts = [f"{job.workdir}:{job.workdir}", f"{docker.cache}:{_CACHE}", *job.mounts]
    return [
        "docker", "run", "--rm", "--init", "--name", job.name,
        "--stop-timeout", str(docker.stop_seconds),
        *(["--gpus", str(job.gpus_per_node)] if uses_gpus else []),
        # NCCL and gloo talk through shared memory, of which a container has 64 MB otherwise
        "--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864",
        "--user", docker.user, "--security-opt", "no-new-privileges", "--cap-drop", "ALL",
        *(word for mount in mounts for word in ("--volume", mount)),
        "--workdir", job.workdir,
        "--env", f"HOME={_CACHE}", "--env", f"HF_HOME={_CACHE}/huggingface", "--env", f"WHET_CACHE={_CACHE}/whet",
        *(word for name in job.env_names for word in ("--env", name)),
        image_of(job),
        *node_command(job),
    ]  # fmt: skip


def image_of(job: Job) -> str:
    """The job's image; else the one that is built here."""
    return job.image or _IMAGES[job.gpus_per_node > 0]
