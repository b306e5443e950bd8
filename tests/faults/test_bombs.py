"""Files that run code when they are opened or imported lie in every folder that whet reads; no verb sets one off.

Two watches: a canary file that any bomb would touch, in whatever process, and Python's audit hook, which sees pickles
that are opened and bombs that are read at all.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import tiny_runs
from canaries import PROGRAM, write_judged_recipe
from workplace import Bomb, write_rows

PICKLES = (
    "pytorch_model.bin", "adapter_model.bin", "adapter_model.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "rng_state_0.pth", "training_args.bin", "scaler.pt", "trainer_state.pkl", ".metadata", "model.ckpt",
    "value_head.bin",
    "tokenizer.pkl", "dataset.pkl", "cache.joblib", "state.pt", ".mdl", "index.faiss.pkl", "vocab.pkl",
)  # fmt: skip
CODE = (
    "modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "processing_evil.py",
    "custom_generate/generate.py",
    "handler.py", "setup.py", "__init__.py", "dataset.py", "rows.py", "conftest.py",
)  # fmt: skip
MODULES = (
    "torch.py", "yaml.py", "json.py", "typer.py", "transformers.py", "numpy.py", "gguf.py", "jinja2.py", "peft.py",
    "datasets.py", "sitecustomize.py", "usercustomize.py", "rich/__init__.py", "safetensors/__init__.py",
)  # fmt: skip
"""names that Python would import from the folder of the call"""


def plant(folder: Path, canary: Path, names: tuple[str, ...]) -> list[str]:
    """Bombs under these names, where there is nothing yet; their paths."""
    planted = []
    for name in names:
        path = folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            path.write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n", encoding="utf-8")
        else:
            path.write_bytes(pickle.dumps(Bomb(canary)))
        planted.append(str(path))
    return planted


def folders_below(*roots: Path) -> list[Path]:
    return [path for root in roots for path in (root, *root.rglob("*")) if path.is_dir() and not path.is_symlink()]


def verbs(place, exported: Path) -> list[dict]:
    """Every verb that reads a folder, the long ones first."""
    recipe, run, model = str(place.recipe), str(place.folder / "run"), str(place.model)
    gguf = str(exported)
    commands = [
        ["evaluate", run], ["compare", run], ["report", run], ["merge", run, "--output", str(place.folder / "merged")],
        *(["export", run, "--to", to, "--output", str(place.folder / to)] for to in ("adapter", "vllm", "ollama")),
        ["export", run, "--to", "gguf-lora", "--output", str(place.folder / "lora")],
        ["export", gguf, "--to", "hf", "--output", str(place.folder / "again"), "--base", model],
        ["generate", run, "--prompt", "Why?", "--max-new-tokens", "3"],
        ["generate", run, "--base", "--prompt", "Why?", "--max-new-tokens", "3"],
        ["generate", str(place.folder / "merged"), "--prompt", "Why?", "--max-new-tokens", "3"],
        ["generate", gguf, "--base-model", model, "--prompt", "Why?", "--max-new-tokens", "3"],
        ["chat", run, "--max-new-tokens", "3"],
        ["inspect", recipe], ["prepare", recipe], ["prepare", "--model", model],
        ["diff", run, recipe], ["diff", run, run], ["runs", "list", str(place.folder)], ["runs", "show", run],
        ["runs", "clean", str(place.folder)],
        ["explain", recipe], ["recipe", "show", recipe], ["recipe", "check", recipe],
        ["init", "--data", str(place.folder / "many.jsonl"), "--model", model, "--yes", "--dry-run"],
        ["push", str(place.folder / "merged"), "ada/tuned", "--dry-run"],
        ["launch", "docker", recipe, "--dry-run"],
        ["launch", "kubernetes", recipe, "--image", "i", "--claim", "c", "--dry-run"],
        ["launch", "skypilot", recipe, "--image", "i", "--gpus-per-node", "0", "--dry-run"],
        ["doctor", "--dist"], ["train", recipe],
    ]  # fmt: skip
    return [{"arguments": words, "stdin": "Why?\n" if words[0] == "chat" else ""} for words in commands]


def watched(place, commands: list[dict], traps: list[str], canary: Path) -> list[dict]:
    """What came of each command, all run in one process in the folder of the workplace."""
    request, answer = place.folder / "request.json", place.folder / "answer.json"
    request.write_text(json.dumps({"commands": commands, "traps": traps, "canary": str(canary)}), encoding="utf-8")
    process = place.start(str(request), str(answer), program=("-P", str(PROGRAM)))
    said, _ = process.communicate(timeout=1700)
    answers = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else []
    assert len(answers) == len(commands), said
    return answers


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_no_verb_sets_off_a_bomb_in_any_folder_that_it_reads(workplace, outcome):
    model = shutil.copytree(workplace.model, workplace.folder / "model")
    workplace.model = model
    write_judged_recipe(workplace, model={"id": str(model)})
    workplace.train()
    many = [{"question": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(40)]
    write_rows(workplace.folder / "many.jsonl", many)
    adapter = workplace.folder / "downloaded"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy2(workplace.folder / "run" / name, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    evil = {"base_model_name_or_path": "evil/base", "auto_mapping": None, "revision": "evil"}
    (adapter / "adapter_config.json").write_text(json.dumps(config | evil), encoding="utf-8")

    canary = workplace.folder / "canary"
    run, cache = workplace.folder / "run", workplace.folder / "cache"
    # a checkpoint with a stranger in it is no checkpoint: whet says so, and the bombs lie beside them
    folders = [folder for folder in folders_below(run, cache) if not folder.name.startswith("checkpoint-")]
    traps = [trap for folder in (*folders, model, adapter, workplace.folder / "data") for trap in
             plant(folder, canary, (*PICKLES, *CODE))]  # fmt: skip
    traps += plant(workplace.folder, canary, (*MODULES, *PICKLES, *CODE))
    answers = watched(workplace, verbs(workplace, adapter), traps, canary)

    failed = [f"{' '.join(each['arguments'][:2])}: exit {each['code']}" for each in answers if each["code"] not in (0,)]
    assert not failed, failed
    set_off = [f"{' '.join(each['arguments'][:3])}: {each['seen']}" for each in answers if each["seen"]]
    outcome(
        fault="Pickles, Python files and modules that run code, in every folder that whet reads", group="security",
        tries=len(answers), held=len(answers) - len(set_off),
        note=f"{len(traps)} bombs; every verb; none was run, unpickled or opened",
    )  # fmt: skip
    assert not set_off, set_off


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_a_resume_and_a_launch_import_nothing_from_the_folder_of_the_call(workplace, uninterrupted, outcome):
    """Processes of their own: ranks under torchrun, and `python -m whet` itself, which looks for modules here first."""
    canary = workplace.folder / "canary"
    run = uninterrupted.copy_to(workplace)
    plant(run, canary, (*PICKLES, *CODE))
    plant(workplace.folder, canary, tuple(name for name in MODULES if name not in ("json.py",)))
    held = []
    said = workplace.train()
    held.append(not canary.exists() and "already finished" not in said)
    code, said = workplace.run(
        "launch", "local", str(workplace.recipe), "--nproc", "2", f"output={workplace.folder / 'two'}",
        "train.epochs=1",
        "batch.micro_size=2",
    )  # fmt: skip
    assert code == 0, said
    held.append(not canary.exists())
    outcome(
        fault="Modules called torch.py, yaml.py, ... in the folder of the call", group="security",
        tries=len(held), held=sum(held), note="resume, and two ranks through torchrun",
    )  # fmt: skip
    assert all(held)


def test_the_command_imports_nothing_from_the_folder_of_the_call(workplace, outcome):
    """The quick part of the one above."""
    canary = workplace.folder / "canary"
    plant(workplace.folder, canary, tuple(name for name in MODULES if name != "json.py"))
    code, said = workplace.run("recipe", "check", str(workplace.recipe))
    held = code == 0 and not canary.exists()
    outcome(
        fault="Modules called torch.py, yaml.py, ... in the folder of the call", group="security", tries=1,
        held=int(held), note="the command itself",
    )  # fmt: skip
    assert held, said


def configurations(canary: Path) -> dict[str, dict[str, object]]:
    """File -> what in it asks transformers to run or fetch code."""
    return {
        "config.json": {
            "auto_map": {"AutoConfig": "configuration_evil.Config", "AutoModelForCausalLM": "modeling_evil.M"}
        },
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]}},
        "processor_config.json": {
            "auto_map": {"AutoProcessor": "processing_evil.P"},
            "processor_class": "EvilProcessor",
        },
        "preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "processing_evil.P"}},
        "generation_config.json": {"custom_generate": "evil/generate", "auto_map": {"x": "modeling_evil.M"}},
    }


@pytest.mark.parametrize("name", [None, *configurations(Path())])
def test_a_model_folder_with_code_of_its_own_runs_none(tmp_path, monkeypatch, name, outcome):
    """In this process: each file that can ask for code, alone; and with none of them, the code that lies beside."""
    import socket

    import torch

    from whet.errors import WhetError
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question at the terminal"))
    canary = tmp_path / "canary"
    folder = tiny_runs.write_base(tmp_path / "base")
    plant(folder, canary, (*PICKLES, *CODE))
    if name is not None:
        path = folder / name
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(document | configurations(canary)[name]), encoding="utf-8")
    is_refused = False
    try:
        load_pretrained(Model(id=str(folder), dtype="float32"), device=torch.device("cpu"))
    except WhetError as error:
        is_refused = "Python code of its own" in str(error)
        assert is_refused, error
    may_be_refused = name in ("config.json", "tokenizer_config.json", "generation_config.json")
    held = not canary.exists() and is_refused == may_be_refused and not any("evil" in module for module in sys.modules)
    outcome(
        fault="A model folder whose configuration names Python files (auto_map, custom_generate)", group="security",
        tries=1, held=int(held), note="refused, or loaded without them; no prompt, no network",
    )  # fmt: skip
    assert held


@pytest.mark.parametrize("named", ["evil/base", "/etc", "../elsewhere", "https://evil.example/base"])
def test_the_base_that_an_adapter_names_is_neither_loaded_nor_asked_for(tmp_path, monkeypatch, named, outcome):
    import socket

    from whet.errors import RecipeError
    from whet.export.request import Request
    from whet.export.source import open_source
    from whet.recipe.schema import Adapter

    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    base = tiny_runs.write_base(tmp_path / "base")
    run = tiny_runs.write_adapter_run(tmp_path / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    path = run / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"base_model_name_or_path": named, "auto_mapping": None}), encoding="utf-8")
    (run / "manifest.json").unlink(missing_ok=True)
    # the recipe names the base; without one, nobody does
    used = open_source(Request(run_folder=run, output=None, base=None, dtype="auto", is_proved=False, say=print)).base
    (run / "recipe.yaml").unlink()
    with pytest.raises(RecipeError) as caught:
        open_source(Request(run_folder=run, output=None, base=None, dtype="auto", is_proved=False, say=print))
    held = used.folder == base and not asked and "--base" in str(caught.value)
    outcome(
        fault="An adapter that names another base, or an address, as its own", group="security",
        tries=1, held=int(held),
        note="the recipe or --base says which base; the name in the file is never followed",
    )  # fmt: skip
    assert held, (caught.value, asked)
