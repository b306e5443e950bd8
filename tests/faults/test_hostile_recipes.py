"""A recipe is data: whatever text stands in it, nothing of it is run, expanded or written elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from whet.errors import WhetError
from whet.launch.docker import Docker, docker_command
from whet.launch.job import Job, check_job, scheduler_name
from whet.launch.kubernetes import Kubernetes, kubernetes_manifest
from whet.launch.skypilot import SkyPilot, skypilot_command, skypilot_task
from whet.launch.slurm import Slurm, slurm_node_script, slurm_settings
from whet.launch.submit import command_text
from whet.recipe import dump_recipe, load_recipe, parse_recipe
from whet.recipe.importers import detect, import_recipe

INJECTIONS = (
    "$(touch {canary})", "`touch {canary}`", "; touch {canary}", "&& touch {canary} #", "| touch {canary}",
    "'; touch {canary}; '", '"; touch {canary}; "', "${{IFS}}$(touch${{IFS}}{canary})", "x' $(touch {canary}) 'y",
    "__import__('os').system('touch {canary}')", "{{{{ cycler.__init__.__globals__.os.popen('touch {canary}') }}}}",
    "!!python/object/apply:os.system ['touch {canary}']", "-rf", "--config=/etc/passwd", "%x[touch {canary}]",
)  # fmt: skip
"""texts that some shell, template engine, YAML loader or option parser would act on"""

OTHER_TOOLS = {
    "Hugging Face": "model_name_or_path: tiny/model\nlearning_rate: 1e-4\noutput_dir: out\ndataset_name: a/rows\n",
    "LLaMA-Factory": "model_name_or_path: tiny/model\nstage: sft\nfinetuning_type: lora\ndataset: rows\n",
    "Axolotl": "base_model: tiny/model\nadapter: lora\ndatasets: [{path: owner/rows, type: alpaca}]\noutput_dir: out\n",
    "lora-ns": "model: {name_or_path: tiny/model}\npeft: {method: lora}\ndataset: {name: gsm8k}\ntraining: {}\n",
}
OWN = "name: a\noutput: out\ndata:\n  train: [{source: rows.jsonl}]\n"


def attacks(canary: Path) -> dict[str, str]:
    """What is put behind a good file, or in place of it."""
    levels = 10_000
    return {
        "a tag that builds an object": f"x: !!python/object/apply:os.system ['touch {canary}']\n",
        "a tag that imports a name": "x: !!python/name:os.system\n",
        "_target_ of hydra": f"x: {{_target_: os.system, command: 'touch {canary}'}}\n",
        "an interpolation": f"x: ${{oc.env:HOME}} $(touch {canary})\n",
        "a billion laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)),
        "a merge key": "base: &b {lr: 1}\nx:\n  <<: *b\n",
        "ten thousand levels": "x: " + "[" * levels + "]" * levels + "\n",
        "ten thousand levels of keys": "x: " + "{a: " * levels + "1" + "}" * levels + "\n",
        "ten megabytes": "x: " + "a" * 10_000_000 + "\n",
        "a hundred thousand values": "x: [" + "1," * 100_000 + "]\n",
        "a second document": "---\nx: 1\n",
    }


@pytest.mark.parametrize("tool", ["whet", *(pytest.param(tool, marks=pytest.mark.fault) for tool in OTHER_TOOLS)])
def test_what_a_yaml_file_may_not_hold_is_refused_at_once(tmp_path, tool, outcome):
    canary = tmp_path / "canary"
    good = OWN if tool == "whet" else OTHER_TOOLS[tool]
    tried = {**attacks(canary), "a key given twice": good.splitlines()[0] + "\n"}
    held = []
    for attack, text in tried.items():
        path = tmp_path / "recipe.yaml"
        path.write_text(good + text, encoding="utf-8")
        begun = time.process_time()
        try:
            if tool == "whet":
                load_recipe(path)
            else:
                imported = import_recipe(path.read_text(encoding="utf-8"), "recipe.yaml")
                # an unknown key of another tool is told, and not taken over
                assert attack in ("_target_ of hydra", "an interpolation"), attack
                assert "touch" not in dump_recipe(imported.recipe)
        except WhetError as error:
            assert len(str(error)) < 20_000
        held.append(time.process_time() - begun < 10 and not canary.exists())
    outcome(
        fault="A recipe (or another tool's YAML) with tags, _target_, aliases, bombs of size and depth, double keys",
        group="security", tries=len(held), held=sum(held), note="refused with the line, in seconds; nothing is built",
    )  # fmt: skip
    assert all(held), list(zip(tried, held, strict=True))
    if tool != "whet":
        assert detect(good) is not None, "the file without the attack is that tool's"


def string_fields() -> list[str]:
    """Every key of a recipe that takes any text, as an override would name it."""
    return [
        "name", "output", "model.id", "model.revision", "data.train.0.source", "data.train.0.config",
        "data.train.0.split", "data.train.0.revision", "data.train.0.system", "data.train.0.instruction", "data.prompt",
        "evaluate.0.name", "evaluate.0.source.source", "adapter.targets.0",
    ]  # fmt: skip


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_text_in_any_field_stays_the_text(tmp_path, monkeypatch, injection, outcome):
    """Loaded, explained, dumped and loaded again: equal, or refused; never run."""
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    text = injection.format(canary=canary)
    document = {
        "name": "a", "output": "out", "model": {"id": "tiny/model"}, "adapter": {"targets": ["q_proj"]},
        "data": {"train": [{"source": "rows.jsonl"}]},
        "evaluate": [{"name": "held", "source": {"source": "other.jsonl"}}],
    }  # fmt: skip
    held = []
    for field in string_fields():
        changed = json.loads(json.dumps(document))
        *above, last = field.split(".")
        node = changed
        for key in above:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if isinstance(node, list):
            node[int(last)] = text
        else:
            node[last] = text
        try:
            recipe = parse_recipe(yaml.safe_dump(changed))
            held.append(parse_recipe(dump_recipe(recipe)) == recipe and not canary.exists())
        except WhetError:
            held.append(not canary.exists())
    outcome(
        fault="$(touch x), ; touch x, __import__ and templates as the text of every field of a recipe",
        group="security", tries=len(held), held=sum(held), note="stays text, or is refused",
    )  # fmt: skip
    assert all(held), list(zip(string_fields(), held, strict=True))


def hostile_job(text: str, **more) -> Job:
    settings = {
        "name": scheduler_name(text), "recipe": f"recipes/{text}.yaml",
        "overrides": (f"name={text}", f"output=/runs/{text}"),
        "output": f"/runs/{text}", "workdir": f"/tmp/{text}", "num_nodes": 2, "gpus_per_node": 0,
        "python": sys.executable,
        "image": "whet:cpu", "env_names": (),
    }  # fmt: skip
    job = Job(**settings | more)
    check_job(job)
    return job


def run_script(script: str, folder: Path) -> None:
    """The script as the scheduler's shell would run it, in a folder of its own with programs that do nothing."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("srun", "sky", "docker", "kubectl", "scontrol", "python"):
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_NODEID": "0", "WHET_HEAD_NODE": "a", "WHET_PORT": "1",
        "SKYPILOT_NODE_IPS": "a", "SKYPILOT_NODE_RANK": "0", "SLURM_JOB_ID": "7", "HOME": str(folder),
    }  # fmt: skip
    subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_script_of_a_scheduler_runs_nothing_that_a_recipe_says(tmp_path, injection, outcome):
    """Every script is rendered with the hostile text as name, output, recipe file, override and folder, and run."""
    canary = tmp_path / "canary"
    text = injection.format(canary=canary)
    folder = tmp_path / "place"
    folder.mkdir()
    job = hostile_job(text, python=str(folder / "bin" / "python"))
    scripts = {
        "slurm's node script": slurm_node_script(job),
        "skypilot's run": yaml.safe_load(skypilot_task(job, SkyPilot(bucket="s3://b")))["run"],
        "skypilot's command": command_text(skypilot_command(job, "task.yaml")),
        "docker's command": command_text(
            docker_command(hostile_job(text, num_nodes=1), Docker(user="1:1", cache=f"/tmp/{text}"))
        ),
    }
    held = []
    for script in scripts.values():
        run_script(script, folder)
        held.append(not canary.exists())
        canary.unlink(missing_ok=True)
    # Kubernetes starts the words themselves; $(NAME) in them it would expand
    manifest = list(yaml.safe_load_all(kubernetes_manifest(job, Kubernetes(claim="c"))))[-1]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    held.append(container["command"].count("$(JOB_COMPLETION_INDEX)") == 1)
    held.append(all("$(" not in word.replace("$$(", "") for word in container["command"] if "INDEX" not in word))
    outcome(
        fault="The same texts in launch scripts of Slurm, SkyPilot, Docker and Kubernetes, which were run",
        group="security", tries=len(held), held=sum(held),
    )  # fmt: skip
    assert all(held), list(zip([*scripts, "kubernetes", "kubernetes"], held, strict=True))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_what_nemo_run_would_not_quote_is_refused(tmp_path, injection, outcome):
    """It writes folder, image and mounts into a line of the batch script as they are."""
    text = injection.format(canary=tmp_path / "canary")
    jobs = {
        "--workdir": ({"workdir": f"/tmp/{text}"}, {}),
        "--image": ({"image": text}, {}),
        "--mount": ({"mounts": (f"/tmp/{text}:/data",)}, {}),
        "--folder": ({}, {"folder": text}),
        "whet launch slurm": ({}, {"account": f"a\n{text}"}),
    }
    held = []
    for where, (of_job, of_cluster) in jobs.items():
        try:
            slurm_settings(hostile_job("a", **of_job), Slurm(**{"account": "a"} | of_cluster))
            # words without a sign that a shell reads
            held.append(text in ("-rf", "--config=/etc/passwd", "") and "account" not in of_cluster)
        except WhetError as error:
            held.append(error.where == where)
    outcome(
        fault="The same texts as folder, image, mount and account of Slurm's batch script", group="security",
        tries=len(held), held=sum(held), note="refused: NeMo-Run would not quote them",
    )  # fmt: skip
    assert all(held), list(zip(jobs, held, strict=True))


@pytest.mark.fault
@pytest.mark.parametrize("where", ["workdir", "image", "mount", "account"])
def test_the_batch_script_of_nemo_run_runs_nothing_that_it_is_told(tmp_path, where, outcome):
    if find_spec("nemo_run") is None:
        pytest.skip("nemo_run is not installed")
    folder = tmp_path / "place"
    folder.mkdir()
    held = []
    for number, injection in enumerate(INJECTIONS):
        canary = tmp_path / f"canary-{number}"
        text = injection.format(canary=canary)
        more = {"workdir": {"workdir": f"/tmp/{text}"}, "image": {"image": f"i{text}"},
                "mount": {"mounts": (f"/tmp/{text}:/data",)}, "account": {}}[where]  # fmt: skip
        program = (
            "import sys, json\nfrom whet.launch.job import Job\nfrom whet.launch.slurm import Slurm\n"
            "from whet.launch.nemo import run_slurm\n"
            "job, slurm = json.load(sys.stdin)\n"
            "job = {k: tuple(v) if isinstance(v, list) else v for k, v in job.items()}\n"
            "print(run_slurm(Job(**job), Slurm(**slurm), is_dry=True))\n"
        )
        job = {
            "name": "a",
            "recipe": "r.yaml",
            "workdir": "/tmp",
            "image": "i",
            "num_nodes": 2,
            "env_names": (),
            **more,
        }
        slurm = {"account": text if where == "account" else "a"}
        done = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps([job, slurm]), capture_output=True, text=True,
            check=False,
            cwd=tmp_path,
        )  # fmt: skip
        if done.returncode == 0:
            run_script(done.stdout, folder)
        else:
            assert "RecipeError" in done.stderr or "error:" in done.stderr, done.stderr
        held.append(not canary.exists())
    outcome(
        fault="The same texts as folder, image, mount and account of Slurm's batch script", group="security",
        tries=len(held), held=sum(held), note="refused, or quoted",
    )  # fmt: skip
    assert all(held), list(zip(INJECTIONS, held, strict=True))
