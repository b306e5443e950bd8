"""Compiles what would be launched for GPUs that are not there: Triton needs the device's name alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float8_e4m3fn: "*fp8e4nv",
}


def compile_only(capability: int, compiled: list[str]) -> Callable[..., None]:
    """Stands for `JITFunction.run`: the kernel is compiled for `capability` (90 is Hopper) and its name noted."""
    import triton
    from triton.backends.compiler import GPUTarget

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, **keywords: Any) -> None:
        bound = inspect.signature(kernel.fn).bind(*args, **keywords)
        constants = {name: value for name, value in bound.arguments.items() if kernel_has_constant(kernel, name)}
        signature = {
            name: "constexpr" if name in constants else _type_of(value) for name, value in bound.arguments.items()
        }
        source = triton.compiler.ASTSource(kernel, signature, constants)
        triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
        compiled.append(kernel.fn.__name__)

    return run


def kernel_has_constant(kernel: Any, name: str) -> bool:
    """Whether a kernel is compiled anew for each value of this argument."""
    return "constexpr" in str(inspect.signature(kernel.fn).parameters[name].annotation)


def _type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"
