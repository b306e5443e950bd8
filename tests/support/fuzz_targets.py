"""Every parser of whet that reads what others wrote, as one table: name -> how it is opened and what it may raise.

`open` gets an empty folder and returns the parser of one input. A parser may return anything or raise one of `raises`;
every other exception is a fault of whet's. Modules are imported when a target is opened, not here: most need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from whet.errors import WhetError

Parser = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser, or several that read the same bytes."""

    module: str
    """in tests/support; its function of the target's name (`-` as `_`) opens the parser"""
    reads: str
    """for people: what is read"""
    raises: tuple[type[BaseException], ...] = (WhetError,)
    memory_gb: float = 3.0
    """address space of the process, libraries included"""
    max_seconds: float = 1.0
    """of processor time, for one input"""
    share: float = 1.0
    """of the time, against the other targets"""
    uses_child: bool = False
    """hands its work to a limited child process"""


TARGETS: dict[str, Target] = {
    "recipe": Target(module="fuzz_recipes", reads="a recipe (YAML); what loads is written and loaded again", share=2),
    "overrides": Target(module="fuzz_recipes", reads="overrides of the command line"),
    "foreign-recipe": Target(module="fuzz_recipes", reads="YAML of other tools, imported"),
    "rows-jsonl": Target(module="fuzz_rows", reads="rows in JSON lines, every format", share=2),
    "rows-json": Target(module="fuzz_rows", reads="rows in one JSON document, SQuAD's too"),
    "rows-csv": Target(module="fuzz_rows", reads="rows in CSV"),
    "rows-parquet": Target(module="fuzz_rows", reads="rows in Parquet", memory_gb=6.0, share=0.5),
    "answers": Target(module="fuzz_answers", reads="answers: every extraction and comparison of texts", share=2),
    "formula": Target(
        module="fuzz_answers",
        reads="formulas, compared in the limited child",
        uses_child=True,
        max_seconds=8.0,
        share=0.5,
    ),
    "template": Target(
        module="fuzz_templates",
        reads="chat templates, rendered in the limited child",
        uses_child=True,
        max_seconds=4.0,
        share=0.5,
    ),
    "conversation": Target(
        module="fuzz_templates",
        reads="conversations in the built-in chat templates",
        uses_child=True,
        max_seconds=4.0,
        share=0.5,
    ),
    "manifest": Target(module="fuzz_folders", reads="manifest.json and the names in a checkpoint"),
    "trainer-state": Target(module="fuzz_folders", reads="trainer_state.json of a checkpoint"),
    "folder-names": Target(module="fuzz_folders", reads="names in a run folder"),
    "run-folder": Target(module="fuzz_folders", reads="a run folder as `whet report`, `runs` and `diff` read it"),
    "metrics": Target(module="fuzz_folders", reads="metrics.jsonl, taken back at a resume"),
    "evaluation-store": Target(module="fuzz_evaluations", reads="stored answers, summaries and comparisons"),
    "journal": Target(module="fuzz_evaluations", reads="journals of answers and shared answers in the cache"),
    "benchmark-output": Target(module="fuzz_evaluations", reads="files of lm-eval and NeMo Evaluator"),
    "rank-status": Target(module="fuzz_folders", reads="status files of ranks"),
    "wire": Target(module="fuzz_folders", reads="what comes over the watch's connections", memory_gb=6.0),
    "request": Target(module="fuzz_folders", reads="HTTP requests to `whet serve`"),
    "gguf": Target(module="fuzz_models", reads="GGUF files", memory_gb=4.0),
    "adapter": Target(module="fuzz_models", reads="adapter_config.json and its safetensors", memory_gb=12.0),
    "weights": Target(module="fuzz_models", reads="safetensors, whole and in pieces", memory_gb=12.0),
    "model-folder": Target(module="fuzz_models", reads="configurations of a model folder"),
}


def open_target(name: str, scratch: Path) -> Parser:
    """The parser `name`, working in `scratch`."""
    parser: Parser = getattr(import_module(TARGETS[name].module), name.replace("-", "_"))(scratch)
    return parser
