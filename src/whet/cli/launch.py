"""`whet launch local | slurm | skypilot | docker | kubernetes RECIPE`: one run on many ranks, here or elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.output import complain, say
from whet.cli.recipe_argument import Overrides, RecipeFile
from whet.errors import RecipeError

if TYPE_CHECKING:
    from whet.launch.job import Job
    from whet.launch.torchrun import Machines
    from whet.recipe.schema import Recipe

app = typer.Typer(
    help="Start one run on several GPUs, machines or a cluster; the exit code is that of its ranks.",
    no_args_is_help=True,
)

MaxRestarts = Annotated[
    int, typer.Option(min=0, help="How often all ranks are started again after one failed; they resume by themselves.")
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
GpusPerNode = Annotated[int, typer.Option(min=0, help="GPUs of each machine, one rank each; 0: one rank on the CPU.")]
Workdir = Annotated[
    str | None,
    typer.Option(help="Folder that the recipe's relative paths begin in, there; default this folder.", metavar="PATH"),
]
Python = Annotated[str, typer.Option(help="Interpreter that whet is installed for, there.", metavar="PYTHON")]
Image = Annotated[str | None, typer.Option(help="Container image with whet in it.", metavar="IMAGE")]
RequiredImage = Annotated[str, typer.Option("--image", help="Container image with whet in it.", metavar="IMAGE")]
Mounts = Annotated[
    list[str] | None, typer.Option("--mount", help="A further folder for the container.", metavar="SOURCE:TARGET")
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", help="A variable to hand over, by name (its value stays out of sight).", metavar="NAME"),
]
DryRun = Annotated[
    bool | None,
    typer.Option(
        "--dry-run/--submit",
        help="Print what would be submitted, or submit it; default: submit where the scheduler is at hand.",
    ),
]


@app.command()
def local(
    recipe: RecipeFile,
    overrides: Overrides = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine; default one for each GPU.")] = None,
    nnodes: Annotated[str, typer.Option(help="Machines, or a range such as 1:2.", metavar="N|MIN:MAX")] = "1",
    node_rank: Annotated[int | None, typer.Option(min=0, help="Number of this machine, the first is 0.")] = None,
    master_addr: Annotated[str | None, typer.Option(help="Name or address of the first machine.")] = None,
    master_port: Annotated[int, typer.Option(min=1, max=65535, help="Port where several machines meet.")] = 29500,
    max_restarts: MaxRestarts = 0,
    require_gpu: Annotated[bool, typer.Option("--require-gpu", help="An error where there is no GPU.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="As in whet train: begin anew.")] = False,
    resume: Annotated[str | None, typer.Option(help="As in whet train: `auto` or a checkpoint.")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="As in whet train.")] = True,
) -> None:
    """Train RECIPE here through torchrun, one rank for each GPU; given on several machines, on all of them.

    What a rank says begins with its number. Ctrl-C, SIGTERM and SIGUSR1 let the ranks save; the same command continues.
    """
    from whet.estimate.hardware import usable_cores
    from whet.launch.local import launch_local
    from whet.launch.machine import choose_num_ranks, count_gpus, threads_per_rank
    from whet.launch.torchrun import Machines, check_machines

    machines = Machines(num_nodes=nnodes, node_rank=node_rank, address=master_addr, port=master_port)
    check_machines(machines)
    loaded = _load(recipe, overrides)
    cores, device = usable_cores(), "cuda" if require_gpu else loaded.train.device
    num_gpus = count_gpus() if device != "cpu" else 0
    num_ranks, why = choose_num_ranks(nproc, device=device, num_gpus=num_gpus, num_cores=cores)
    say(why)
    if max_restarts and resume not in (None, "auto"):
        raise RecipeError(
            "every restart would go back to that checkpoint",
            where="--resume",
            mend="leave out --max-restarts; the run continues without it, too",
        )
    _make_ready(loaded, machines, fresh=fresh)
    flags = [*([f"--resume={resume}"] if resume else []), *([] if evaluate else ["--no-evaluate"])]
    outcome = launch_local(
        ["-m", "whet", "train", str(recipe), *(overrides or ()), *flags],
        machines,
        run_folder=Path(loaded.output),
        num_ranks=num_ranks,
        num_threads=loaded.train.threads or threads_per_rank(num_ranks, cores),
        max_restarts=max_restarts,
        say=complain,
    )
    if outcome.exit_code:
        complain(f"{outcome.sentence} (exit code {outcome.exit_code})")
        raise typer.Exit(outcome.exit_code)


@app.command()
def slurm(
    recipe: RecipeFile,
    account: Annotated[str, typer.Option(help="Slurm account.")],
    overrides: Overrides = None,
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 8,
    time: Annotated[str, typer.Option(help="Time limit; an interrupted run queues again.")] = "04:00:00",
    warn_seconds: Annotated[int, typer.Option(min=10, help="Seconds before the limit at which ranks save.")] = 300,
    qos: Annotated[str | None, typer.Option(help="Slurm quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that nodes must have.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="A further option of sbatch, such as mem=0.", metavar="KEY[=VALUE]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Login node to submit from, by ssh.")] = None,
    user: Annotated[str | None, typer.Option(help="User on the login node.")] = None,
    folder: Annotated[str | None, typer.Option(help="Where scripts and logs go on the cluster.")] = None,
    workdir: Workdir = None,
    python: Python = "python",
    image: Image = None,
    mount: Mounts = None,
    env: Env = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = None,
) -> None:
    """Queue RECIPE with Slurm, through NeMo-Run (pip install 'whet\\[launch]')."""
    from whet.launch.nemo import run_slurm, slurm_at_hand
    from whet.launch.slurm import Slurm, check_slurm

    job = _job(
        recipe, overrides, nodes=nodes, gpus_per_node=gpus_per_node, workdir=workdir, python=python, image=image,
        mount=mount, env=env, max_restarts=max_restarts,
    )  # fmt: skip
    settings = Slurm(
        account=account, partition=partition, time=time, warn_seconds=warn_seconds, qos=qos, constraint=constraint,
        host=host, user=user, folder=folder, others=_sbatch_options(sbatch or ()),
    )  # fmt: skip
    check_slurm(settings)
    is_dry = _is_dry(dry_run, slurm_at_hand(settings), "sbatch is not on this machine and no --host is given")
    say(run_slurm(job, settings, is_dry=is_dry))


@app.command()
def skypilot(
    recipe: RecipeFile,
    image: RequiredImage,
    overrides: Overrides = None,
    accelerator: Annotated[str | None, typer.Option(help="Kind of GPU, such as H100.")] = None,
    gpus_per_node: GpusPerNode = 8,
    nodes: Nodes = 1,
    infra: Annotated[str | None, typer.Option(help="aws/us-east-1, k8s, ...; default the cheapest.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Machines that may be taken away; needs --bucket.")] = False,
    bucket: Annotated[str | None, typer.Option(help="Bucket that is mounted as /runs.")] = None,
    python: Python = "python",
    mount: Mounts = None,
    env: Env = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = None,
) -> None:
    """Rent machines for RECIPE with SkyPilot (`sky jobs launch`), which gives them back at the end."""
    from whet.launch.skypilot import SkyPilot, skypilot_command, skypilot_task
    from whet.launch.submit import at_hand, run_with_file

    job = _job(
        recipe, overrides, nodes=nodes, gpus_per_node=gpus_per_node, workdir=None, python=python, image=image,
        mount=mount, env=env, max_restarts=max_restarts,
    )  # fmt: skip
    task = skypilot_task(job, SkyPilot(accelerator=accelerator, infra=infra, use_spot=spot, bucket=bucket))
    if _is_dry(dry_run, at_hand("sky"), "sky is not on this machine"):
        say(f"# {shlex.join(skypilot_command(job, 'task.yaml'))}\n{task}".rstrip())
        return
    _leave(run_with_file(lambda path: skypilot_command(job, path), task, ".yaml"))


@app.command()
def docker(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus_per_node: GpusPerNode = 8,
    cache: Annotated[
        Path, typer.Option(help="Folder of models and datasets, kept between runs.", metavar="PATH")
    ] = Path("~/.cache/whet-container"),
    workdir: Workdir = None,
    python: Python = "python",
    image: Image = None,
    mount: Mounts = None,
    env: Env = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = None,
) -> None:
    """Run RECIPE in a container on this machine, as the user who types it."""
    import os

    from whet.launch.docker import Docker, docker_command, image_of
    from whet.launch.submit import at_hand, command_text, run_command

    job = _job(
        recipe, overrides, nodes=1, gpus_per_node=gpus_per_node, workdir=workdir, python=python, image=image,
        mount=mount, env=env, max_restarts=max_restarts,
    )  # fmt: skip
    folder = cache.expanduser().absolute()
    command = docker_command(job, Docker(user=f"{os.getuid()}:{os.getgid()}", cache=str(folder)))
    if _is_dry(dry_run, at_hand("docker"), "docker is not on this machine"):
        say(command_text(command, heads=[image_of(job)]))
        return
    folder.mkdir(parents=True, exist_ok=True)  # else docker makes it, and it is root's
    _leave(run_command(command))


@app.command()
def kubernetes(
    recipe: RecipeFile,
    image: RequiredImage,
    claim: Annotated[str, typer.Option(help="Persistent volume claim, mounted as --workdir.")],
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 8,
    namespace: Annotated[str, typer.Option(help="Namespace.")] = "default",
    secret: Annotated[str, typer.Option(help="Secret whose keys are the variables of --env.")] = "whet",  # noqa: S107
    workdir: Workdir = "/workspace",
    python: Python = "python",
    env: Env = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = None,
) -> None:
    """Run RECIPE as an indexed Job, one pod for each machine (`kubectl apply`)."""
    from whet.launch.kubernetes import Kubernetes, kubernetes_manifest
    from whet.launch.submit import at_hand, run_with_file

    job = _job(
        recipe, overrides, nodes=nodes, gpus_per_node=gpus_per_node, workdir=workdir, python=python, image=image,
        mount=None, env=env, max_restarts=max_restarts,
    )  # fmt: skip
    manifest = kubernetes_manifest(job, Kubernetes(namespace=namespace, claim=claim, secret=secret))
    if _is_dry(dry_run, at_hand("kubectl"), "kubectl is not on this machine"):
        say(manifest.rstrip())
        return
    _leave(run_with_file(lambda path: ["kubectl", "apply", "-f", path], manifest, ".yaml"))


def _load(recipe: Path, overrides: list[str] | None) -> Recipe:
    """The recipe, so that a mistake in it ends here and not on eight ranks."""
    from whet.cli.recipe_file import load_any_recipe

    return load_any_recipe(recipe, overrides or (), lambda _: None)


def _make_ready(recipe: Recipe, machines: Machines, *, fresh: bool) -> None:
    """The run folder as `whet train` wants it. `fresh` is done here, once: ranks would do it again at every restart."""
    from whet.train import folder

    run_folder = Path(recipe.output)
    folder.check_writable(run_folder, needed_bytes=folder.needed_bytes(recipe))
    if not fresh:
        folder.refuse_other_recipe(run_folder, recipe)
        return
    if machines.most > 1 and machines.node_rank is None:
        raise RecipeError(
            "machines without a number would all move the earlier run away",
            where="--fresh",
            mend="number them with --node-rank, or move the folder yourself",
        )
    # the ranks of no machine start before the first machine has come this far
    if not machines.node_rank and (moved := folder.set_aside(run_folder)):
        say(f"moved the earlier run to {moved}")


def _job(
    recipe: Path, overrides: list[str] | None, *, nodes: int, gpus_per_node: int, workdir: str | None, python: str,
    image: str | None, mount: list[str] | None, env: list[str] | None, max_restarts: int,
) -> Job:  # fmt: skip
    from whet.launch.job import Job, check_job, scheduler_name

    loaded = _load(recipe, overrides)
    job = Job(
        name=scheduler_name(loaded.name),
        recipe=str(recipe),
        overrides=tuple(overrides or ()),
        output=loaded.output,
        workdir=workdir or str(Path.cwd()),
        num_nodes=nodes,
        gpus_per_node=gpus_per_node,
        max_restarts=max_restarts,
        python=python,
        image=image,
        mounts=tuple(mount or ()),
        env_names=("HF_TOKEN",) if env is None else tuple(name for name in env if name),
    )
    check_job(job)
    return job


def _sbatch_options(options: list[str] | tuple[str, ...]) -> dict[str, str | bool]:
    """`mem=0` and `exclusive` as NeMo-Run takes them; a `-` in a name is its `_`."""
    pairs = (option.lstrip("-").partition("=") for option in options)
    return {key.replace("-", "_"): value if equals else True for key, equals, value in pairs}


def _is_dry(asked: bool | None, is_at_hand: bool, why: str) -> bool:
    if asked is None and not is_at_hand:
        complain(f"dry run: {why}")
        return True
    return bool(asked)


def _leave(code: int) -> None:
    if code:
        raise typer.Exit(code)
