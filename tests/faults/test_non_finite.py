"""Numbers that are not finite, and spikes, in runs of the command line: who is named, what is saved, how a run ends."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from safetensors.torch import load_file, save_file
from workplace import TIMEOUT_SECONDS, Workplace

from whet.checkpoint.names import list_steps
from whet.errors import WhetError

pytestmark = pytest.mark.fault

PLANTED = str(Path(planted.__file__))
FULL = {"method": "none"}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}
ON = {"max_rollbacks": 3, "spike": 100.0, "window": 10, "snapshot_every": 2}
FORWARD = {"module": "layers.1.mlp", "kind": "forward", "factor": float("inf")}
BACKWARD = {"module": "layers.0.self_attn", "kind": "backward", "factor": float("inf")}
SPIKE = {"module": "norm", "kind": "backward", "factor": 1e6}
NAMED = {
    "forward": "first in the forward pass: model.layers.1.mlp",
    "backward": "first in the backward pass: model.layers.0",
}


def train_planted(place: Workplace, *, num_ranks: int = 1, **fault: Any) -> list[tuple[int, str]]:
    """(exit code, what it said) of every rank of `whet train` with a fault in it, of several in the last one."""
    environment = dict(place.environment)
    if num_ranks > 1:
        fault["rank"] = num_ranks - 1
        place.environment |= {
            "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
    place.environment["PYTHONPATH"] = f"{Path(PLANTED).parent}:{environment.get('PYTHONPATH', '')}"
    processes = []
    for rank in range(num_ranks):
        if num_ranks > 1:
            place.environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(
            place.start(json.dumps(fault), "train", str(place.recipe), program=(PLANTED,))
        )  # fmt: skip
    place.environment = environment
    said = [process.communicate(timeout=4 * TIMEOUT_SECONDS)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_all_finite(folder: Path) -> bool:
    """Of every safetensors file below `folder`."""
    files = list(folder.rglob("*.safetensors"))
    assert files, "nothing was saved at all, so nothing is shown"
    return all(bool(torch.isfinite(t.double()).all()) for path in files for t in load_file(path).values())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    ("adapter", "fault", "number"),
    [(LORA, FORWARD, 2), (LORA, BACKWARD, 3), (FULL, FORWARD, 3), (FULL, BACKWARD, 2)],
    ids=["lora-forward", "lora-backward", "full-forward", "full-backward"],
)
def test_a_row_that_is_not_finite_ends_the_run_with_its_name(workplace, outcome, adapter, fault, number, num_ranks):
    workplace.write_recipe(adapter=adapter)
    ends = train_planted(workplace, num_ranks=num_ranks, **fault, **{"pass": number})
    chosen = (workplace.folder / f"planted-{num_ranks - 1}.txt").read_text(encoding="utf-8")
    run = workplace.folder / "run"
    said = ends[0][1]
    held = (
        [code for code, _ in ends] == [4] * num_ranks
        and f"samples {chosen}: step " in said
        and NAMED[fault["kind"]] in said
        and (num_ranks == 1 or "on rank 1" in said)
        and is_all_finite(run)
        and not list(run.glob("*.safetensors"))
        and not (run / "summary.json").exists()
    )
    outcome(
        fault=f"NaN or Inf in the {fault['kind']} pass for one row", group="numbers", tries=1, held=int(held),
        lost="the steps since the last checkpoint", note="exit 4 before the update, with row and module; on all ranks",
        peer="goes on to the end with NaN weights, logs a loss of 0.0, exit 0",
    )  # fmt: skip
    assert held, [*ends, chosen]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("adapter", "fault", "num_ranks", "strategy"),
    [
        (LORA, FORWARD, 1, "auto"),
        (FULL, SPIKE, 1, "auto"),
        (LORA, SPIKE, 2, "replicate"),
        (FULL, BACKWARD, 2, "replicate"),
        (FULL, SPIKE, 2, "fsdp"),
        (FULL, FORWARD, 2, "fsdp"),
    ],
    ids=["lora-forward", "full-spike", "lora-spike-ranks", "full-backward-ranks", "full-spike-fsdp", "full-fsdp"],
)
def test_with_the_guard_the_run_goes_on_without_the_row(workplace, outcome, adapter, fault, num_ranks, strategy):
    """Eight steps; the fault comes after half the window, so that a spike is seen."""
    workplace.write_recipe(adapter=adapter, train={"guard": ON, "save_every": 3}, parallel={"strategy": strategy})
    number = 12 if num_ranks == 1 else 6
    ends = train_planted(workplace, num_ranks=num_ranks, **fault, **{"pass": number})
    chosen = (workplace.folder / f"planted-{num_ranks - 1}.txt").read_text(encoding="utf-8")
    run = workplace.folder / "run"
    assert [code for code, _ in ends] == [0] * num_ranks, ends
    quarantined = [json.loads(line) for line in (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (incident,) = map(json.loads, (run / "incidents.jsonl").read_text(encoding="utf-8").splitlines())
    ids = [entry["sample_id"] for entry in quarantined]
    steps = [line["step"] for line in workplace.steps()]
    held = (
        (chosen in ids if fault is SPIKE else ids == [chosen])
        and steps == sorted(set(steps))
        and incident["kind"] == "rollback"
        and incident["facts"]["sample_ids"] == ids
        and "time back to a snapshot in memory" in " ".join(summary["sentences"])
        and summary["steps"] == 8
        and is_all_finite(run)
    )
    what = "Gradient times 1e6 in one step" if fault is SPIKE else "NaN or Inf for one row, guard on"
    outcome(
        fault=what, group="numbers", tries=1, held=int(held), lost="at most snapshot_every steps, made again",
        note="back to the snapshot in memory, rows quarantined, told in log, summary and report",
        peer="" if fault is SPIKE else "has no such guard",
    )  # fmt: skip
    assert held, (ends, quarantined, incident, steps, chosen)


def overflow_for(model_folder: Path, token_id: int) -> None:
    """Finite weights whose product overflows for one token: dimension 0 is that token's alone, and 1e30 reads it."""
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0] = 0
        if name.endswith("layers.0.mlp.gate_proj.weight") or name.endswith("layers.0.mlp.up_proj.weight"):
            weight[0] = 0
            weight[0, 0] = 1e30
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, 0] = 0
    embedding[token_id, 0] = 1
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.timeout(600)
def test_a_rare_token_that_overflows_is_found_by_its_row(workplace, outcome):
    """Nothing is planted in the program: the base itself computes infinity for one row of the data."""
    from tokenizers import Tokenizer

    workplace.model = shutil.copytree(workplace.model, workplace.folder / "base")
    token_id = Tokenizer.from_file(str(workplace.model / "tokenizer.json")).token_to_id("~")
    overflow_for(workplace.model, token_id)
    lines = workplace.rows.read_text(encoding="utf-8").splitlines()
    rare = json.dumps({"question": "What does ~ stand for?", "answer": "For home."})
    workplace.rows = workplace.folder / "rows.jsonl"
    workplace.rows.write_text("\n".join([*lines[:17], rare, *lines[17:]]) + "\n", encoding="utf-8")
    workplace.write_recipe(adapter=LORA | {"targets": ["q_proj", "v_proj"]})
    said = workplace.train(expect=4)
    assert "between its parts, before down_proj" in said and "model.layers.0.mlp" in said
    name = said.partition("error: samples ")[2].partition(":")[0]
    code, shown = workplace.run("inspect", str(workplace.recipe), "--row", name, "--no-html")
    held = code == 0 and "What does ~ stand for?" in shown and "1 of the" in said
    outcome(
        fault="A row that overflows in the base", group="numbers", tries=1, held=int(held),
        note="exit 4; `whet inspect --row` shows the row that is named",
    )  # fmt: skip
    assert held, (said, shown)


@pytest.mark.timeout(900)
def test_no_way_out_of_a_run_lets_a_number_pass_that_is_not_finite(workplace, outcome, monkeypatch):
    """A finished run whose file was broken afterwards, or whose numbers are too large for the format that is asked."""
    from whet.export import EXPORTS, Request

    workplace.train()
    run = workplace.folder / "run"
    broken, large = (shutil.copytree(run, workplace.folder / name) for name in ("broken", "large"))
    for folder, value in ((broken, float("nan")), (large, 3.4e38)):
        weights = load_file(folder / "adapter_model.safetensors")
        name = next(name for name in sorted(weights) if "lora_B" in name)
        weights[name][0, 0] = value
        weights[name.replace("lora_B", "lora_A")][0] = 100.0
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "manifest.json").unlink()  # else its sum alone would refuse it
    asked: list[tuple[Path, str, Any]] = [(broken, to, "auto") for to in ("hf", "adapter", "gguf", "gguf-lora")]
    # bfloat16 ends a little earlier than float32, and the merged product is a hundred times larger
    asked += [
        (large, "adapter", "bfloat16"),
        (large, "hf", "float32"),
        (large, "gguf", "float32"),
        (large, "gguf", "q8_0"),
    ]
    results = []
    monkeypatch.chdir(workplace.folder)
    for number, (folder, to, dtype) in enumerate(asked):
        target = workplace.folder / f"out-{number}"
        said: list[str] = []
        request = Request(run_folder=folder, output=target, dtype=dtype, is_proved=False, say=said.append)
        with pytest.raises(WhetError) as caught:
            EXPORTS[to](request)
        results.append((caught.value.exit_code, target.exists(), str(caught.value)))
    # the same of checkpoints: none of a state that is not finite can be made, as tests/unit/train/test_sound.py shows
    held = [code in (4, 5) and not exists and "NaN or infinity" in said for code, exists, said in results]
    outcome(
        fault="Export or merge of numbers that are not finite", group="numbers", tries=len(held), held=sum(held),
        note="exit 4 or 5, nothing is left",
    )  # fmt: skip
    assert all(held), [(request[1:], result) for request, result in zip(asked, results, strict=True)]
    assert list_steps(run)
