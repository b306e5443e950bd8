"""Types every command of docs/seeds-line-by-line.md, on a tiny pretrained model and stretches of the real rows.

    WHET_TEST_DATA=... python tests/support/seed_lines.py            all lines; benchmarks/results/seed_lines.json
    WHET_TEST_DATA=... python tests/support/seed_lines.py --only fiqa
    WHET_TEST_DATA=... python tests/support/seed_lines.py --only nemo --match doctor     such lines alone

The lines stand in tests/docs/seed_lines/SEED.toml: `seed` is what the guide says, `command` what is typed with whet,
`tried` or `small` how it was made small (`$NAME` stands for the settings of that name below), `says` what the output
must hold, `code` the exit code, `outcome` what the page says of it. Exit code 1 if a line did other than that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "tests" / "docs" / "seed_lines"
RESULT = ROOT / "benchmarks" / "results" / "seed_lines.json"
SEEDS = {
    "nemo": "NVIDIA NeMo 2.0: Llama 3 SFT and LoRA",
    "fiqa": "nemotron-fiqa-peft",
    "lora_ns": "lora-ns: Llama-3.1-8B training guide",
}
"""file -> the guide's name, in the order of the page"""
SHARED = (
    "train.py", "train_fiqa_peft.py", "evaluate_fiqa.py", "inference.py", "merge_adapter.py", "validate_config.py",
    "configs", "recipes", "examples", "accelerate_config", "requirements.txt", "constraints.txt", "pyproject.toml",
    "README.md", "LICENSE", "src",
)  # fmt: skip
TIMEOUT_SECONDS = 900
_CPU = "train.device=cpu train.threads=1"
_TINY = f"model.id=$MODEL {_CPU} data.max_dropped=100% train.max_steps=2 train.save_every=1 train.eval_every=1"

_SPECTRAL = "callbacks.0.every=1 callbacks.0.warmup_steps=0"
_UNASKED = f"{_SPECTRAL} evaluate=[] train.best_metric=eval/loss train.final=last"


def settings(data: Path) -> dict[str, str]:
    """The overrides that make each guide's run small, as shell variables."""
    gsm8k, fiqa = data / "gsm8k", data / "fiqa" / "fiqa_main_schema_333.jsonl"
    answered = [
        f"evaluate.{n}.source.{key}"
        for n, split in enumerate(("train[700:704]", "train[710:714]"))
        for key in (f"source={gsm8k}/train.jsonl", f"split={split}")
    ]
    answered += ["evaluate.0.max_new_tokens=16", "evaluate.1.max_new_tokens=16", "evaluate.1.every=1"]

    def rows(file: Path, train: str, validation: str) -> str:
        return (
            f"data.train.0.source={file} data.train.0.split={train} "
            f"data.validation.0.source={file} data.validation.0.split={validation}"
        )

    def asked(file: Path, split: str) -> str:
        return f"evaluate.0.source.source={file} evaluate.0.source.split={split} evaluate.0.max_new_tokens=16"

    dolly, squad = data / "dolly" / "dolly_short_pairs.jsonl", data / "squad" / "squad_v1.1_dev_1000.jsonl"
    metamath = data / "metamath" / "metamathqa_schema_from_backward.jsonl"
    few = "evaluate.0.metrics=[rouge1,token_f1]"
    return {
        "GSM8K": f"{_TINY} {rows(gsm8k / 'train.jsonl', 'train[:256]', 'train[256:264]')} {_SPECTRAL} "
        f"{' '.join(answered)}",
        "METAMATH": f"{_TINY} {rows(metamath, 'train[:512]', 'train[512:520]')} {_UNASKED}",
        "SMOL": f"{_TINY} {rows(metamath, 'train[:64]', 'train[64:72]')} {_UNASKED}",
        "FIQA": f"{_TINY} model.dtype=float32 data.max_length=1024 {rows(fiqa, 'train[:40]', 'train[40:50]')} "
        f"{asked(fiqa, 'train[50:54]')} {few}",
        "FIQA_EVALUATION": few,
        "DOLLY": f"{_TINY} output=runs/nemo-sft {rows(dolly, 'train[:12]', 'train[20:24]')} "
        f"{asked(dolly, 'train[30:34]')}",
        "SQUAD": f"{_TINY} output=runs/nemo-lora {rows(squad, 'train[:40]', 'train[500:504]')} "
        f"{asked(squad, 'all[970:972]')}",
    }


def read_lines(name: str) -> list[dict[str, Any]]:
    """The lines of one seed, in its order."""
    with (LINES / f"{name}.toml").open("rb") as file:
        return list(tomllib.load(file)["line"])


def tried(line: dict[str, Any]) -> str:
    """What is typed where the runs are small."""
    small = f" ${line['small']}" if "small" in line else ""
    return line.get("tried", line["command"] + small)


def make_world(folder: Path, data: Path) -> dict[str, str]:
    """Fill `folder` with what stands at the repository's root; the environment to type commands in."""
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    commands = folder / "bin"
    commands.mkdir()
    for name, what in {"whet": "-m whet", "python": "", "python3": ""}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n', encoding="utf-8")
        (commands / name).chmod(0o755)
    write_snippets(folder, data)
    model = data / "stories260k" / "hf"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "SSL_CERT_FILE") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return kept | {
        "PATH": f"{commands}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder / "home"),
        "MODEL": str(model), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": "",
        "WHET_CACHE": str(folder / "cache"), "PIP_CONFIG_FILE": pip_settings(),
        **{name: text.replace("$MODEL", str(model)) for name, text in settings(data).items()},
    }  # fmt: skip


def pip_settings() -> str:
    """pip's own settings, which live in the home folder that the commands do not see."""
    return os.environ.get("PIP_CONFIG_FILE", str(Path.home() / ".config" / "pip" / "pip.conf"))


def write_snippets(folder: Path, data: Path) -> None:
    """The FiQA project's Python snippets, with `import torch`, transformers' loader and the tiny base."""
    from fiqa_snippet import BASE, INFERENCE, LOADING

    loading = "import torch\n" + LOADING.replace(
        "from nemo_automodel import NeMoAutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM as NeMoAutoModelForCausalLM",
    ).replace(BASE, str(data / "stories260k" / "hf"))
    (folder / "snippet_loading.py").write_text(loading + "print(model)\n", encoding="utf-8")
    inference = loading + INFERENCE.replace("max_new_tokens=512", "max_new_tokens=32")
    (folder / "snippet_inference.py").write_text(inference + "print(response)\n", encoding="utf-8")


def try_line(line: dict[str, Any], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Type one line; what came of it."""
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", tried(line)], cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    expected = line.get("code", 0)
    missing = [text for text in line.get("says", ()) if text not in done.stdout]
    is_good = not missing and expected in ("any", done.returncode)
    return {
        "seed": line["seed"], "typed": tried(line), "code": done.returncode, "is_as_written": is_good,
        "seconds": round(time.monotonic() - begun, 1), "missing": missing,
        **({} if is_good else {"said": done.stdout[-3000:]}),
    }  # fmt: skip


def main() -> None:
    """The lines of one seed after the other; the result file holds no path of this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SEEDS)
    parser.add_argument("--match", default="", metavar="TEXT", help="lines that need none before them")
    asked = parser.parse_args()
    if not os.environ.get("WHET_TEST_DATA"):
        raise SystemExit("WHET_TEST_DATA is not set: no model and rows")
    data = Path(os.environ["WHET_TEST_DATA"]).resolve()
    results = {name: try_seed(name, data, asked.match) for name in ([asked.only] if asked.only else SEEDS)}
    keep(results)
    raise SystemExit(0 if all(each["is_as_written"] for outcomes in results.values() for each in outcomes) else 1)


def try_seed(name: str, data: Path, match: str = "") -> list[dict[str, Any]]:
    """The lines of one seed, in a fresh folder."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        environment = make_world(Path(folder), data)
        for line in (line for line in read_lines(name) if match in line["command"]):
            outcome = try_line(line, Path(folder), environment)
            outcomes.append(outcome)
            print("ok  " if outcome["is_as_written"] else "NOT ", f"{outcome['seconds']:6.1f} s", line["command"])
            if not outcome["is_as_written"]:
                print(f"  code {outcome['code']}, missing {outcome['missing']}\n{outcome['said']}")
            sys.stdout.flush()
    return outcomes


def keep(results: dict[str, list[dict[str, Any]]]) -> None:
    """Write what was found into the result file, beside what it holds of other seeds."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from machine import write_result

    kept = ("code", "is_as_written", "seconds")
    lines = json.loads(RESULT.read_text(encoding="utf-8"))["lines"] if RESULT.is_file() else {}
    for name, outcomes in results.items():
        found = {each["seed"]: {key: each[key] for key in kept} for each in outcomes}
        known = {**lines.get(name, {}), **found}
        lines[name] = {line["seed"]: known[line["seed"]] for line in read_lines(name) if line["seed"] in known}
    write_result(
        RESULT.stem,
        claim="every command of docs/seeds-line-by-line.md does what its line says",
        result={"lines": lines},
        command="WHET_TEST_DATA=... python tests/support/seed_lines.py",
    )


if __name__ == "__main__":
    main()
