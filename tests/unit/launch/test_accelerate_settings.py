"""What `accelerate launch` hands over never contradicts the recipe in silence: an error names both."""

from __future__ import annotations

import ast
import re
from argparse import Namespace
from pathlib import Path

import pytest

from whet.errors import RecipeError
from whet.launch.accelerate_settings import refuse_contradictions
from whet.recipe import parse_recipe

RECIPE = """
name: t
output: runs/t
data: {train: [{source: rows.jsonl}]}
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1", "FSDP_OFFLOAD_PARAMS": "false"}
DIMENSIONS = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"} | {
    f"PARALLELISM_CONFIG_{name}_SIZE": "1" for name in ("DP_REPLICATE", "DP_SHARD", "TP", "CP", "SP")
}
# (overrides, variables, what both are called; None: they agree)
CASES = {
    "nothing set": ([], {}, None),
    "no autocast says nothing of the weights": (["model.dtype=bfloat16"], {"ACCELERATE_MIXED_PRECISION": "no"}, None),
    "bf16 and auto": ([], {"ACCELERATE_MIXED_PRECISION": "bf16"}, None),
    "bf16 and bfloat16": (["model.dtype=bfloat16"], {"ACCELERATE_MIXED_PRECISION": "bf16"}, None),
    "bf16 and float32": (
        ["model.dtype=float32"], {"ACCELERATE_MIXED_PRECISION": "bf16"},
        ("MIXED_PRECISION=bf16", "model.dtype: float32"),
    ),
    "fp16": ([], {"ACCELERATE_MIXED_PRECISION": "fp16"}, ("MIXED_PRECISION=fp16", "model.dtype: auto")),
    "fp8 and no fp8 base": ([], {"ACCELERATE_MIXED_PRECISION": "fp8"}, ("MIXED_PRECISION=fp8", "model.quantize: none")),
    "fp8 and an fp8 base": (["model.quantize=fp8"], {"ACCELERATE_MIXED_PRECISION": "fp8"}, None),
    "the accumulation that the batch makes": (
        ["batch.global_size=16", "batch.micro_size=2"],
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "WORLD_SIZE": "2"}, None,
    ),
    "another accumulation": (
        ["batch.global_size=16", "batch.micro_size=2"],
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8", "WORLD_SIZE": "2"},
        ("GRADIENT_ACCUMULATION_STEPS=8", "batch.global_size: 16, which makes 4 passes of 2 on 2 ranks"),
    ),
    "an accumulation where the passes are whet's to choose": (
        ["batch.global_size=16"], {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "WORLD_SIZE": "2"},
        ("GRADIENT_ACCUMULATION_STEPS=4", "batch.micro_size=2"),
    ),
    "accelerate's own default accumulation": ([], {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}, None),
    "ranks of a tensor group see the same rows": (
        ["batch.global_size=16", "batch.micro_size=2", "parallel.tensor=2"],
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "WORLD_SIZE": "4"}, None,
    ),
    "the same clipping": (["optim.max_grad_norm=1"], {"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, None),
    "another clipping": (
        ["optim.max_grad_norm=1"], {"ACCELERATE_GRADIENT_CLIPPING": "0.5"},
        ("GRADIENT_CLIPPING=0.5", "optim.max_grad_norm: 1"),
    ),
    "clipping left to DeepSpeed's file": ([], {"ACCELERATE_GRADIENT_CLIPPING": "auto"}, None),
    "a CPU for a recipe that wants CUDA": (
        ["train.device=cuda"], {"ACCELERATE_USE_CPU": "True"}, ("ACCELERATE_USE_CPU=True", "train.device: cuda"),
    ),
    "a CPU for a recipe of the CPU": (["train.device=cpu"], {"ACCELERATE_USE_CPU": "True"}, None),
    "no CPU asked for": (["train.device=cuda"], {"ACCELERATE_USE_CPU": "False"}, None),
    "DeepSpeed": ([], {"ACCELERATE_USE_DEEPSPEED": "true"}, ("USE_DEEPSPEED=true", "parallel.strategy: auto")),
    "Megatron": ([], {"ACCELERATE_USE_MEGATRON_LM": "true"}, ("USE_MEGATRON_LM=true", "parallel.strategy: auto")),
    "FSDP and copies": (
        ["parallel.strategy=replicate"], FSDP, ("ACCELERATE_USE_FSDP=true", "parallel.strategy: replicate"),
    ),
    "FSDP and whet's choice": ([], FSDP, ("ACCELERATE_USE_FSDP=true", "parallel.strategy=fsdp")),
    "FSDP twice": (["parallel.strategy=fsdp"], FSDP | {"FSDP_SHARDING_STRATEGY": "FULL_SHARD"}, None),
    "hybrid shards and fsdp": (
        ["parallel.strategy=fsdp"], FSDP | {"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"},
        ("HYBRID_SHARD", "parallel.strategy=hsdp"),
    ),
    "hybrid shards and hsdp": (["parallel.strategy=hsdp"], FSDP | {"FSDP_SHARDING_STRATEGY": "4"}, None),
    "offloaded parts": (
        ["parallel.strategy=fsdp"], FSDP | {"FSDP_OFFLOAD_PARAMS": "true"},
        ("FSDP_OFFLOAD_PARAMS", "parallel.strategy"),
    ),
    "recompute that the recipe forbids": (
        ["parallel.strategy=fsdp", "train.recompute=none"], FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
        ("FSDP_ACTIVATION_CHECKPOINTING=true", "train.recompute: none"),
    ),
    "tensor parallel of one kind": (["parallel.tensor=2"], DIMENSIONS | {"PARALLELISM_CONFIG_TP_SIZE": "2"}, None),
    "tensor parallel in one of the two": (
        [], DIMENSIONS | {"PARALLELISM_CONFIG_TP_SIZE": "4"}, ("TP_SIZE=4", "parallel.tensor: 1"),
    ),
    "context parallel": ([], DIMENSIONS | {"PARALLELISM_CONFIG_CP_SIZE": "2"}, ("CP_SIZE=2", "parallel")),
    "another number of shards": (
        ["parallel.strategy=hsdp", "parallel.shards=4"],
        DIMENSIONS | {"PARALLELISM_CONFIG_DP_SHARD_SIZE": "8", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"},
        ("DP_SHARD_SIZE=8", "parallel.shards: 4"),
    ),
    "no compilation": ([], {"ACCELERATE_DYNAMO_BACKEND": "NO"}, None),
    "compilation of accelerate's alone": (
        [], {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, ("DYNAMO_BACKEND=INDUCTOR", "train.compile: false"),
    ),
    "compilation by both": (["train.compile=true"], {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_contradiction_names_both_and_an_agreement_passes(name):
    overrides, variables, both = CASES[name]
    recipe = parse_recipe(RECIPE, "t.yaml", overrides)
    if both is None:
        refuse_contradictions(variables, recipe, has_gpu=lambda: False)
        return
    with pytest.raises(RecipeError) as caught:
        refuse_contradictions(variables, recipe, has_gpu=lambda: False)
    assert all(words in str(caught.value) for words in both), str(caught.value)


def test_a_cpu_is_refused_where_auto_would_take_the_gpu():
    recipe, variables = parse_recipe(RECIPE, "t.yaml"), {"ACCELERATE_USE_CPU": "true"}
    refuse_contradictions(variables, recipe, has_gpu=lambda: False)
    with pytest.raises(RecipeError, match=r"ACCELERATE_USE_CPU=true, train.device: auto"):
        refuse_contradictions(variables, recipe, has_gpu=lambda: True)


def test_all_contradictions_are_told_at_once():
    recipe = parse_recipe(RECIPE, "t.yaml", ["model.dtype=float32"])
    variables = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_DEEPSPEED": "true"}
    with pytest.raises(RecipeError, match=r"MIXED_PRECISION(.|\n)*USE_DEEPSPEED"):
        refuse_contradictions(variables, recipe, has_gpu=lambda: False)


# settings of accelerate's launcher that say nothing a recipe says
WITHOUT_MEANING = {
    "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_RDV_FILE",
    # details of engines that are refused, and of cloud services that whet does not run on
    "ACCELERATE_CONFIG_DS_FIELDS", "ACCELERATE_DEEPSPEED_", "ACCELERATE_FP8_", "ACCELERATE_USE_SAGEMAKER",
    "ACCELERATE_SAGEMAKER_", "ACCELERATE_DYNAMO_MODE", "ACCELERATE_DYNAMO_USE_",
}  # fmt: skip


def test_no_setting_of_accelerate_s_launcher_is_unknown():
    """A new accelerate that sets a new variable fails here, and someone decides what it means."""
    launch = pytest.importorskip("accelerate.utils.launch")
    source = Path(launch.__file__).read_text(encoding="utf-8")
    names = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    set_there = {name for name in names if re.fullmatch(r"ACCELERATE_[A-Z0-9_]+[A-Z0-9]", name)}
    assert "ACCELERATE_MIXED_PRECISION" in set_there
    from whet.launch import accelerate_settings

    read_here = set(
        re.findall(r"ACCELERATE_[A-Z0-9_]+", Path(accelerate_settings.__file__).read_text(encoding="utf-8"))
    )
    unknown = {name for name in set_there - read_here if not name.startswith(tuple(WITHOUT_MEANING))}
    assert not unknown


def test_the_launcher_s_own_environment_is_understood(monkeypatch):
    """accelerate's function that makes the environment of ranks, with FSDP asked for on its command line."""
    commands = pytest.importorskip("accelerate.commands.launch")
    from accelerate.utils.launch import prepare_multi_gpu_env

    args: Namespace = commands.launch_command_parser().parse_args(
        ["--use_fsdp", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "bf16",
         "--main_process_port", "0", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "train.py"]
    )  # fmt: skip
    variables = prepare_multi_gpu_env(args)
    with pytest.raises(RecipeError, match="ACCELERATE_USE_FSDP=true") as caught:
        refuse_contradictions(variables, parse_recipe(RECIPE, "t.yaml"), has_gpu=lambda: False)
    assert "MIXED_PRECISION" not in str(caught.value)
    refuse_contradictions(variables, parse_recipe(RECIPE, "t.yaml", ["parallel.strategy=fsdp"]), has_gpu=lambda: False)
