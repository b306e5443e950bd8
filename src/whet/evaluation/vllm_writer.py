"""Base and tuned as vLLM answers them: one engine with the adapter beside it, or one engine after the other.

A plain LoRA is exported and asked for request by request. What vLLM cannot serve beside a base (DoRA, trained norms, a
full fine-tuning) is exported as a whole model, and takes the place of the base's engine.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from whet.errors import RecipeError
from whet.evaluation.answers import as_generations
from whet.evaluation.questions import Questions
from whet.export.adapter import VLLM_RANKS, export_vllm
from whet.export.merged import export_merged
from whet.export.request import Request
from whet.inference.text import answer_decoder
from whet.inference.vllm_backend import VllmEngine, require_vllm
from whet.models.adapters import ADAPTER_CONFIG
from whet.models.load import LoadedModel
from whet.recipe.schema import Recipe
from whet.types import Generation

_BATCHES_AT_ONCE = 16


class VllmWriter:
    """`run_folder`: the run whose tuned model will be asked for, None for the base alone; `room`: folder for exports,
    which `end` removes. `loaded` gives tokenizer and base folder, not the answers."""

    num_at_once = _BATCHES_AT_ONCE

    def __init__(self, recipe: Recipe, loaded: LoadedModel, run_folder: Path | None, room: Path) -> None:
        self._loaded, self._room = loaded, room
        self._dtype = "bfloat16" if recipe.model.dtype == "auto" else recipe.model.dtype
        self.name = f"vLLM {require_vllm()} in {self._dtype}"
        _refuse_base(recipe, loaded)
        self._context = int(loaded.model.config.max_position_embeddings)
        self._adapter: Path | None = None
        self._prepared: Path | None = None
        shutil.rmtree(room, ignore_errors=True)
        if run_folder is not None and recipe.adapter.method == "lora" and not recipe.adapter.also_train:
            self._prepared = export_vllm(self._request(run_folder, "adapter"))
        self._engine: VllmEngine | None = self._open(loaded.folder)

    def write(self, questions: Questions, rows: range, *, progress: Callable[[int], None]) -> tuple[Generation, ...]:
        assert self._engine is not None
        examples = [questions.examples[row] for row in rows]
        prompts = [questions.prompts[row] for row in rows]
        engine, adapter, decode = self._engine, self._adapter, answer_decoder(self._loaded.tokenizer)
        generations = as_generations(
            examples,
            prompts,
            self._loaded.tokenizer,
            lambda: engine.generate(
                prompts,
                stop_ids=questions.stop_ids,
                decoding=questions.decoding,
                keys=[example.id for example in examples],
                decode=decode,
                adapter=adapter,
            ),
        )
        progress(len(rows))
        return generations

    def take_tuned(self, folder: Path) -> None:
        if self._prepared is not None:
            self._adapter = self._prepared
            return
        merged = export_merged(self._request(folder, "merged"))
        # the base's engine holds most of the GPU's memory
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._engine = self._open(merged)

    def end(self) -> None:
        shutil.rmtree(self._room, ignore_errors=True)

    def _open(self, folder: Path) -> VllmEngine:
        rank = None
        if self._prepared is not None:
            exported = int(json.loads((self._prepared / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"])
            rank = next(size for size in VLLM_RANKS if size >= exported)
        return VllmEngine(folder, dtype=self._dtype, context=self._context, max_lora_rank=rank)

    def _request(self, run_folder: Path, kind: str) -> Request:
        self._room.mkdir(parents=True, exist_ok=True)
        return Request(run_folder=run_folder, output=self._room / kind, is_proved=False, say=lambda _: None)


def _refuse_base(recipe: Recipe, loaded: LoadedModel) -> None:
    if recipe.model.quantize not in ("none", "fp8"):  # float8 is for training alone
        raise RecipeError(
            f"vLLM would answer with the whole base, not with the one in {recipe.model.quantize}",
            where="--backend vllm",
            mend="leave --backend out",
        )
    if not list(loaded.folder.glob("*.safetensors")):
        raise RecipeError(
            f"vLLM reads safetensors, and {recipe.model.id} has none in {loaded.folder}",
            where="--backend vllm",
            mend="leave --backend out, or train from a folder with safetensors",
        )
