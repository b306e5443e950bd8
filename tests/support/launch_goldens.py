"""The dry runs that are kept as golden files. `python tests/support/launch_goldens.py` writes them anew.

With a name it prints that one: NeMo-Run leaves files open, which the tests would take for their own mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from whet.launch.docker import Docker, docker_command, image_of
from whet.launch.job import Job
from whet.launch.kubernetes import Kubernetes, kubernetes_manifest
from whet.launch.skypilot import SkyPilot, skypilot_command, skypilot_task
from whet.launch.slurm import Slurm
from whet.launch.submit import command_text

FOLDER = Path(__file__).parents[1] / "golden" / "launch"
RECIPE = "configs/Llama-3.1/llama3.1_8b_metamath.yaml"
TWO_NODES = Job(
    name="metamath-qa", recipe=RECIPE, overrides=("optim.lr=1e-4",), workdir="/lustre/team/whet", num_nodes=2,
    gpus_per_node=8, image="/lustre/team/images/whet.sqsh", mounts=("/lustre/models:/models",),
)  # fmt: skip
ONE_NODE = Job(name="metamath-qa", recipe=RECIPE, workdir="/home/ada/whet", num_nodes=1, gpus_per_node=4)
IN_THE_CLOUD = Job(
    name="metamath-qa", recipe=RECIPE, overrides=("output=/runs/metamath",), output="/runs/metamath",
    workdir="/workspace", num_nodes=2, gpus_per_node=8, image="registry.example.com/team/whet:gpu",
)  # fmt: skip
ON_A_CPU = Job(name="tiny", recipe="recipes/demo.yaml", workdir="/home/ada/whet", gpus_per_node=0, env_names=())
CLUSTER = Slurm(account="team_llm", partition="batch", time="12:00:00", others={"exclusive": True})


def docker_text(job: Job) -> str:
    command = docker_command(job, Docker(user="1001:1001", cache="/home/ada/.cache/whet-container"))
    return command_text(command, heads=[image_of(job)]) + "\n"


PLAIN: dict[str, Callable[[], str]] = {
    "docker_four_gpus.txt": lambda: docker_text(ONE_NODE),
    "docker_cpu.txt": lambda: docker_text(ON_A_CPU),
    "kubernetes_two_nodes.yaml": lambda: kubernetes_manifest(
        IN_THE_CLOUD, Kubernetes(namespace="llm", claim="whet-work")
    ),
    "kubernetes_one_node.yaml": lambda: kubernetes_manifest(
        Job(
            name="tiny",
            recipe="recipes/demo.yaml",
            workdir="/workspace",
            gpus_per_node=1,
            image="whet:gpu",
            env_names=(),
        ),
        Kubernetes(claim="whet-work"),
    ),
    "skypilot_two_nodes.yaml": lambda: skypilot_task(
        IN_THE_CLOUD, SkyPilot(accelerator="H100", infra="aws/us-east-1", use_spot=True, bucket="s3://team-whet-runs")
    ),
    "skypilot_command.txt": lambda: command_text(skypilot_command(IN_THE_CLOUD, "task.yaml")) + "\n",
}
"""what whet writes itself"""


def slurm_text(job: Job, slurm: Slurm) -> str:
    """What NeMo-Run would submit, with its home called $NEMORUN_HOME."""
    from whet.launch.nemo import run_slurm

    return run_slurm(job, slurm, is_dry=True)


BY_NEMO: dict[str, Callable[[], str]] = {
    "slurm_two_nodes.txt": lambda: slurm_text(TWO_NODES, CLUSTER),
    "slurm_one_node_without_container.txt": lambda: slurm_text(ONE_NODE, Slurm(account="team_llm", time="1-00:00:00")),
}
"""what NeMo-Run writes"""


def write() -> None:
    """All of them; those of NeMo-Run where it is installed."""
    from importlib.util import find_spec

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in (PLAIN | (BY_NEMO if find_spec("nemo_run") else {})).items():
        (FOLDER / name).write_text(text(), encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write((PLAIN | BY_NEMO)[sys.argv[1]]())
    else:
        write()
