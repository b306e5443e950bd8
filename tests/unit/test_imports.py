"""Who may import what: the layers of pyproject.toml, one home per third-party library, torch-free packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "whet"

# library -> the only places (relative to src/whet) that may import it, lazily or not
HOMES = {
    "datasets": ("data/",),
    "bitsandbytes": ("models/",),
    "gguf": ("models/", "export/"),
    "llama_cpp": ("export/",),
    "peft": ("models/",),
    "pyarrow": ("data/",),
    "reasoning_gym": ("data/",),
    "rouge_score": ("evaluation/metrics/",),
    "sacrebleu": ("evaluation/metrics/",),
    "tensorboard": ("tracking/",),
    "torch.utils.tensorboard": ("tracking/",),
    "triton": ("kernels/",),
    "typer": ("cli/",),
    "vllm": ("inference/",),
    "nemo_automodel": ("models/",),
    "invoke": ("launch/",),
    "nemo_run": ("launch/",),
    "wandb": ("tracking/",),
    "mlflow": ("tracking/",),
    "trackio": ("tracking/",),
    "pynvml": ("train/",),
    # what only the tests and benchmarks compare against
    "scipy": (),
    "statsmodels": (),
    "trl": (),
}

TORCH_FREE = ("types", "errors", "recipe", "estimate", "report", "launch", "cli")
HEAVY = ("torch", "transformers", "peft", "datasets", "pandas", "scipy")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
name, *heavy = sys.argv[1:]
module = importlib.import_module(name)
for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
    importlib.import_module(info.name)
print(*[library for library in heavy if library in sys.modules])
"""


def imported_names(tree: ast.AST) -> set[str]:
    """Every dotted name that an import statement anywhere in `tree` reaches, `from a import b` as `a` and `a.b`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def strays(path: str, source: str) -> list[str]:
    """Libraries that the file at `path` (relative to src/whet) imports outside their home."""
    names = imported_names(ast.parse(source))
    return [
        library
        for library, homes in HOMES.items()
        if any(name == library or name.startswith(f"{library}.") for name in names) and not path.startswith(homes)
    ]


def test_every_third_party_library_has_one_home():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        found += [f"src/whet/{name}: {library}" for library in strays(name, path.read_text(encoding="utf-8"))]
    assert not found, "imports outside the library's home (see HOMES):\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import peft",
        "from peft import LoraConfig",
        "def lazy():\n    import peft.utils",
        "from peft.tuners import lora as tuner",
    ],
)
def test_an_import_away_from_home_is_seen_however_it_is_written(source):
    assert strays("train/run.py", source) == ["peft"]
    assert strays("models/adapters.py", source) == []


def test_a_submodule_can_have_its_own_home():
    assert strays("train/loop.py", "from torch.utils import tensorboard") == ["torch.utils.tensorboard"]
    assert strays("train/loop.py", "from torch.utils import data\nimport torch") == []


@pytest.mark.parametrize(
    "package", [name for name in TORCH_FREE if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()]
)
def test_importing_it_loads_no_heavy_library(package):
    """All its modules, in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, f"whet.{package}", *HEAVY], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == [], f"whet.{package} imports these at import time"


def test_the_layers_of_pyproject_hold():
    process = subprocess.run(
        [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
