"""A model folder, rows and a workplace in which `python -m whet` runs as users run it: in processes of its own.

The model folder carries pickles that would touch a canary file when opened; every workplace checks at its end that
none was. The fixtures are those of tests/integration and tests/faults, whose conftests import them.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet.cache import digest_of
from whet.checkpoint.names import list_steps

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUM_ROWS = 26
TIMEOUT_SECONDS = 240


class Bomb:
    """Unpickling it touches the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


@pytest.fixture(name="plant_bombs")
def plant_bombs_fixture() -> Callable[..., None]:
    """The function of that name, for test files."""
    return plant_bombs


def plant_bombs(folder: Path, canary: Path, *names: str) -> None:
    """Pickles under the names that other tools open."""
    for name in names or (
        "pytorch_model.bin",
        "adapter_model.bin",
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
    ):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))


def rows() -> list[dict[str, str]]:
    """Questions and answers of different lengths."""
    return [
        {"question": f"What is {n} plus {n * n}? {'Think well. ' * (n % 4)}", "answer": f"It is {n + n * n}."}
        for n in range(NUM_ROWS)
    ]


def write_rows(path: Path, content: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


def write_tiny_model(folder: Path) -> None:
    """Random Llama, 2 layers, hidden 64, with a byte-pair tokenizer whose pad token is its end token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for row in rows() for text in row.values()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.08,
        bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder, pickles included; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder)
    write_rows(folder.parent / "rows.jsonl", rows())
    plant_bombs(folder, folder.parent / "canary")
    return folder


@dataclass(slots=True, kw_only=True)
class Workplace:
    """A folder with a recipe, and the command line run in it."""

    folder: Path
    model: Path
    rows: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def write_recipe(self, **sections: Any) -> None:
        """LoRA with dropout, shuffled, two epochs of 4 steps, two micro-batches per step, a checkpoint per step.

        `sections` change it key by key; an adapter with another `method` replaces the whole section.
        """
        document: dict[str, Any] = {
            "name": "tiny",
            "output": str(self.folder / "run"),
            "model": {"id": str(self.model), "dtype": "float32"},
            "adapter": {"rank": 4, "alpha": 8, "dropout": 0.1},
            "data": {"train": [{"source": str(self.rows)}]},
            "batch": {"global_size": 8, "micro_size": 4},
            "optim": {"lr": 0.005},
            "train": {"epochs": 2, "save_every": 1, "keep": 3, "device": "cpu", "threads": 1},
            "tracking": [],
        }
        for name, value in sections.items():
            is_section = isinstance(document.get(name), dict) and isinstance(value, dict) and "method" not in value
            document[name] = document[name] | value if is_section else value
        self.recipe.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "whet"), **popen: Any) -> subprocess.Popen[str]:
        """The command line, running; ended with the test."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": self.folder} | popen
        process = subprocess.Popen([sys.executable, *program, *arguments], env=self.environment, **options)
        self.started.append(process)
        return process

    def run(self, *arguments: str, **popen: Any) -> tuple[int, str]:
        """The command line to its end: (exit code, everything it said)."""
        process = self.start(*arguments, **popen)
        said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, said

    def train(self, *arguments: str, expect: int = 0, **popen: Any) -> str:
        """`whet train recipe.yaml ...`; what it said."""
        code, said = self.run("train", str(self.recipe), *arguments, **popen)
        assert code == expect, said
        return said

    def train_until(self, reached: Callable[[], bool], *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """`whet train` in a process that still runs when `reached()` has become true."""
        return self.wait_until(reached, self.start("train", str(self.recipe), *arguments, **popen))

    def wait_until(self, reached: Callable[[], bool], process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """`process`, still running, once `reached()` is true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not reached():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the run did not get that far"
            time.sleep(0.0005)
        return process

    def kill_at(self, step: int, *arguments: str) -> None:
        """SIGKILL a `whet train` as soon as metrics.jsonl has the line of `step`: before, in or after its save."""
        process = self.train_until(lambda: self.last_step() >= step, *arguments)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def last_step(self, run: str = "run") -> int:
        """The newest step in metrics.jsonl; 0 before there is one."""
        return max((line["step"] for line in self.steps(run)), default=0)

    def lines(self, run: str = "run") -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that is being written is left out."""
        path = self.folder / run / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def steps(self, run: str = "run") -> list[dict[str, Any]]:
        """The step lines of metrics.jsonl."""
        return [line for line in self.lines(run) if line["kind"] == "step"]

    def trajectory(self, run: str = "run") -> list[tuple[Any, ...]]:
        """What every step computed, in order."""
        return [tuple(s[key] for key in ("step", "loss", "lr", "grad_norm", "batch_hash")) for s in self.steps(run)]

    def hashes(self, run: str = "run") -> dict[str, str]:
        """SHA-256 of the newest checkpoint's tensors and of the final weights."""
        root = self.folder / run
        newest = root / f"checkpoint-{list_steps(root)[0]}"
        files = [*newest.glob("*.safetensors"), *root.glob("*.safetensors")]
        return {path.relative_to(root).as_posix(): digest_of(path) for path in files}


def environment_of(folder: Path) -> dict[str, str]:
    """A small, plain environment: nothing of the user's caches, tokens or network."""
    names = ("PATH", "PYTHONPATH", "LANG", "TMPDIR", "VIRTUAL_ENV")
    kept = {key: os.environ[key] for key in names if key in os.environ}
    return kept | {
        "HOME": str(folder),
        "WHET_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def make_workplace(folder: Path, model: Path) -> Workplace:
    """`folder`, made if it is not there, with the standard recipe in it."""
    folder.mkdir(exist_ok=True)
    rows_file = model.parent / "rows.jsonl"
    place = Workplace(folder=folder, model=model, rows=rows_file, environment=environment_of(folder))
    place.write_recipe()
    return place


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path) -> Iterator[Workplace]:
    """A folder with rows and the standard recipe; afterwards no pickle may have been opened and no process be left."""
    place = make_workplace(tmp_path, tiny_model)
    yield place
    for process in place.started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    assert not (tiny_model.parent / "canary").exists(), "a pickle of the model folder was opened"
    assert not (tmp_path / "canary").exists(), "a pickle was opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninterrupted:
    """A run that nothing disturbed: what every other one must equal."""

    run_folder: Path
    trajectory: list[tuple[Any, ...]]
    hashes: dict[str, str]

    def copy_to(self, workplace: Workplace, *, is_finished: bool = False) -> Path:
        """The run as it was right after its last checkpoint, or finished, as `run` of another workplace."""
        copy = shutil.copytree(self.run_folder, workplace.folder / "run")
        if not is_finished:
            for path in [*copy.glob("adapter_*"), copy / "summary.json", copy / "manifest.json"]:
                path.unlink()
        return copy


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Uninterrupted:
    """The standard recipe from beginning to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    place = make_workplace(folder, tiny_model)
    place.train()
    return Uninterrupted(run_folder=folder / "run", trajectory=place.trajectory(), hashes=place.hashes())
