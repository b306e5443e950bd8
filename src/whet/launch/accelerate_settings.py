"""What `accelerate launch` hands to its processes (ACCELERATE_*) against the recipe: no setting is ignored in silence.

The names are those that accelerate 1.15 sets (`accelerate/utils/launch.py`). whet reads none of them to decide
anything: the recipe does. A value that cannot come true beside the recipe is an error that names both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from whet.errors import RecipeError
from whet.recipe.resolve import derive_accumulation
from whet.recipe.schema import Recipe

_NO_DEEPSPEED = "whet has no DeepSpeed; distributed_type: MULTI_GPU, and parallel.strategy=fsdp for its ZeRO stages"
_NO_MEGATRON = "whet has no Megatron-LM; distributed_type: MULTI_GPU, and parallel.tensor for its tensor parallelism"
_HYBRID = ("HYBRID_SHARD", "HYBRID_SHARD_ZERO2", "4", "5")
_WHOLE = ("NO_SHARD", "3")


def refuse_contradictions(variables: Mapping[str, str], recipe: Recipe, *, has_gpu: Callable[[], bool]) -> None:
    """RecipeError that names every pair of an ACCELERATE_* setting and the setting of `recipe` that contradicts it.

    `has_gpu` is asked only where the answer matters.
    """
    found = [
        *_precision(variables, recipe),
        *_batch(variables, recipe),
        *_device(variables, recipe, has_gpu),
        *_engines(variables, recipe),
        *_sharding(variables, recipe),
        *_dimensions(variables, recipe),
        *_compile(variables, recipe),
    ]
    if found:
        raise RecipeError(
            "accelerate's settings contradict the recipe:\n" + "\n".join(f"  {line}" for line in found),
            where="accelerate launch",
            mend="change one of the two: the recipe, or the options and the --config_file of accelerate launch",
        )


def _precision(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    """`no` means that accelerate casts nothing; it says nothing about the format that weights are loaded in."""
    word = variables.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    dtype, quantize = recipe.model.dtype, recipe.model.quantize
    if word == "fp16":
        return [f"ACCELERATE_MIXED_PRECISION=fp16, model.dtype: {dtype} (whet has no float16: bf16 or no)"]
    if word == "fp8" and quantize != "fp8":
        return [f"ACCELERATE_MIXED_PRECISION=fp8, model.quantize: {quantize} (model.quantize=fp8)"]
    if word == "bf16" and dtype not in ("auto", "bfloat16"):
        return [f"ACCELERATE_MIXED_PRECISION=bf16, model.dtype: {dtype} (model.dtype=bfloat16, or auto)"]
    return []


def _batch(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    found = []
    steps = _number(variables, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if steps is not None and (line := _accumulation(int(steps), variables, recipe)) is not None:
        found.append(line)
    clipping = _number(variables, "ACCELERATE_GRADIENT_CLIPPING")
    if clipping is not None and clipping != recipe.optim.max_grad_norm:
        found.append(f"ACCELERATE_GRADIENT_CLIPPING={clipping:g}, optim.max_grad_norm: {recipe.optim.max_grad_norm:g}")
    return found


def _accumulation(steps: int, variables: Mapping[str, str], recipe: Recipe) -> str | None:
    """Passes per step follow from the global batch; with `micro_size: auto` they are whet's to choose."""
    name, batch = f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps}", recipe.batch
    num_data_ranks = max(1, int(variables.get("WORLD_SIZE", "1")) // recipe.parallel.tensor)
    if batch.micro_size == "auto":
        if steps == 1:
            return None
        micro, rest = divmod(batch.global_size, steps * num_data_ranks)
        mend = f" (batch.micro_size={micro})" if micro and not rest else ""
        return f"{name}, batch.micro_size: auto, which chooses the passes of a step by the memory{mend}"
    derived = derive_accumulation(batch, num_data_ranks, batch.micro_size)
    if derived == steps:
        return None
    return (
        f"{name}, batch.global_size: {batch.global_size}, which makes {derived} passes of {batch.micro_size} "
        f"on {num_data_ranks} ranks"
    )


def _device(variables: Mapping[str, str], recipe: Recipe, has_gpu: Callable[[], bool]) -> list[str]:
    device = recipe.train.device
    if not _is_on(variables, "ACCELERATE_USE_CPU") or device == "cpu":
        return []
    if device == "cuda" or has_gpu():
        return [f"ACCELERATE_USE_CPU={variables['ACCELERATE_USE_CPU']}, train.device: {device} (train.device=cpu)"]
    return []


def _engines(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    strategy, found = recipe.parallel.strategy, []
    if _is_on(variables, "ACCELERATE_USE_DEEPSPEED"):
        found.append(f"ACCELERATE_USE_DEEPSPEED=true, parallel.strategy: {strategy} ({_NO_DEEPSPEED})")
    if _is_on(variables, "ACCELERATE_USE_MEGATRON_LM"):
        found.append(f"ACCELERATE_USE_MEGATRON_LM=true, parallel.strategy: {strategy} ({_NO_MEGATRON})")
    return found


def _sharding(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    """FSDP of accelerate against `parallel`; its version and its prefetching change no result and are not compared."""
    if not _is_on(variables, "ACCELERATE_USE_FSDP"):
        return []
    kind, strategy = variables.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper(), recipe.parallel.strategy
    wanted = "hsdp" if kind in _HYBRID else "replicate" if kind in _WHOLE else "fsdp"
    found = []
    if strategy != wanted:
        found.append(
            f"ACCELERATE_USE_FSDP=true (FSDP_SHARDING_STRATEGY={kind}), parallel.strategy: {strategy} "
            f"(parallel.strategy={wanted})"
        )
    if _is_on(variables, "FSDP_OFFLOAD_PARAMS"):
        found.append(f"FSDP_OFFLOAD_PARAMS=true, parallel.strategy: {strategy} (whet keeps all parts on the devices)")
    if _is_on(variables, "FSDP_ACTIVATION_CHECKPOINTING") and recipe.train.recompute == "none":
        found.append("FSDP_ACTIVATION_CHECKPOINTING=true, train.recompute: none (train.recompute=full)")
    return found


def _dimensions(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    """`--use_parallelism_config`: how many ranks share what."""
    if not _is_on(variables, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        return []
    sizes = {
        name: int(_number(variables, f"PARALLELISM_CONFIG_{name}_SIZE") or 1)
        for name in ("TP", "CP", "SP", "DP_SHARD", "DP_REPLICATE")
    }
    parallel, found = recipe.parallel, []
    if sizes["TP"] != parallel.tensor:
        found.append(f"PARALLELISM_CONFIG_TP_SIZE={sizes['TP']}, parallel.tensor: {parallel.tensor}")
    found += [
        f"PARALLELISM_CONFIG_{name}_SIZE={sizes[name]}, parallel: has no such dimension (long rows: data.max_length)"
        for name in ("CP", "SP")
        if sizes[name] > 1
    ]
    is_hybrid = sizes["DP_SHARD"] > 1 and sizes["DP_REPLICATE"] > 1
    if is_hybrid and (parallel.strategy, parallel.shards) != ("hsdp", sizes["DP_SHARD"]):
        found.append(
            f"PARALLELISM_CONFIG_DP_SHARD_SIZE={sizes['DP_SHARD']} with DP_REPLICATE_SIZE={sizes['DP_REPLICATE']}, "
            f"parallel.strategy: {parallel.strategy}, parallel.shards: {parallel.shards} "
            f"(parallel.strategy=hsdp parallel.shards={sizes['DP_SHARD']})"
        )
    return found


def _compile(variables: Mapping[str, str], recipe: Recipe) -> list[str]:
    backend = variables.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper()
    if backend == "NO" or (backend == "INDUCTOR" and recipe.train.compile):
        return []
    now = str(recipe.train.compile).lower()
    return [f"ACCELERATE_DYNAMO_BACKEND={backend}, train.compile: {now} (dynamo_backend no, or inductor with true)"]


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(name, "").lower() in ("true", "1", "yes", "on")


def _number(variables: Mapping[str, str], name: str) -> float | None:
    """None where the setting is absent, or `auto` or `none`, as DeepSpeed's may be."""
    try:
        return float(variables[name]) if name in variables else None
    except ValueError:
        return None
