import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import compiled_kernels
import pytest
import torch
import triton_interpreter
from tiny import tiny_llama

from whet.kernels import select, triton_support

pytestmark = pytest.mark.slow

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.slow
def test_a_model_with_the_kernels_in_the_interpreter_computes_what_torch_does():
    triton_interpreter.run("tests/interpreted/test_selected_kernels.py", num_expected=8)


@pytest.mark.slow
def test_the_norm_kernels_in_the_interpreter_equal_torch():
    triton_interpreter.run("tests/interpreted/test_triton_norm.py", num_expected=40)


@pytest.mark.slow
def test_the_rotary_kernel_in_the_interpreter_equals_torch():
    triton_interpreter.run("tests/interpreted/test_triton_rotary.py", num_expected=15)


@pytest.mark.slow
def test_the_swiglu_kernels_in_the_interpreter_equal_torch():
    triton_interpreter.run("tests/interpreted/test_triton_swiglu.py", num_expected=35)


@pytest.mark.slow
def test_the_float8_kernel_in_the_interpreter_equals_torch():
    triton_interpreter.run("tests/interpreted/test_triton_fp8.py", num_expected=15)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, *(pytest.param(each, marks=pytest.mark.slow) for each in (torch.float16, torch.float32))]
)
def test_every_kernel_compiles_for_hopper(dtype, monkeypatch, tmp_path):
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.runtime.jit import JITFunction

    from whet.kernels import triton_fp8, triton_norm, triton_rotary, triton_swiglu

    compiled = []
    monkeypatch.setattr(JITFunction, "run", compiled_kernels.compile_only(90, compiled))
    x_TE, heads_THD, r_T1 = torch.ones(2, 576).to(dtype), torch.ones(2, 3, 8).to(dtype), torch.ones(2, 1)
    for residual, weight_trains in ((None, False), (x_TE, True)):
        triton_norm.forward(x_TE, residual, x_TE[0], 1e-5)
        triton_norm.backward(x_TE, x_TE, r_T1, x_TE[0], residual, weight_trains=weight_trains)
    for turns_back in (False, True):
        triton_rotary.turn(heads_THD, heads_THD, heads_THD[:, 0], heads_THD[:, 0], turns_back=turns_back)
    triton_swiglu.forward(x_TE, x_TE)
    triton_swiglu.backward(x_TE, x_TE, x_TE)
    triton_swiglu.backward_into(x_TE, x_TE, x_TE)
    for column_scale_E in (None, torch.ones(576)):
        triton_fp8.quantize_rows(x_TE, column_scale_E)
    assert len(compiled) == 11


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A machine where nothing stands against the kernels; `triton_support` answers for it."""
    monkeypatch.delenv("WHET_TRITON", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(triton_support, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.6.0"))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(triton_support.Path, "is_file", lambda path: True)
    triton_support._why_not.cache_clear()
    yield monkeypatch
    triton_support._why_not.cache_clear()


def test_a_gpu_with_triton_and_a_compiler_runs_the_kernels(on_a_gpu):
    assert triton_support.why_not(CUDA) is None
    assert triton_support.sentence(CUDA, torch.bfloat16, ["norm", "rotary"]) == "norm, rotary"
    assert triton_support.sentence(CUDA, torch.bfloat16, []) is None, "all are switched off"


def test_each_thing_that_is_missing_is_named(on_a_gpu):
    def reason():
        triton_support._why_not.cache_clear()
        return triton_support.why_not(CUDA)

    on_a_gpu.setattr(triton_support.Path, "is_file", lambda path: False)
    assert "Python.h" in reason()
    on_a_gpu.delenv("CC")
    on_a_gpu.setattr(triton_support.shutil, "which", lambda name: None)
    assert "a C compiler" in reason()
    on_a_gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert reason() == "compute capability 7.5 has no bfloat16"
    on_a_gpu.setattr(torch.version, "hip", "6.4")
    assert "ROCm" in reason()
    on_a_gpu.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.3.1"))
    assert reason() == "Triton 3.3.1 is older than 3.4"
    on_a_gpu.setattr(triton_support, "find_spec", lambda name: None)
    assert reason() == "Triton is not installed"
    on_a_gpu.setenv("WHET_TRITON", "off")
    assert reason() == "WHET_TRITON is off"


def test_the_summary_says_why_torch_computes_on_a_gpu_and_nothing_of_it_on_a_cpu(on_a_gpu):
    assert triton_support.sentence(CUDA, torch.float64, ["norm"]).endswith("the model computes in float64")
    on_a_gpu.setenv("WHET_TRITON", "off")
    assert triton_support.sentence(CUDA, torch.bfloat16, ["norm"]).endswith("norm: WHET_TRITON is off")
    assert triton_support.sentence(CPU, torch.bfloat16, ["norm"]) is None
    assert "triton" not in select.install(tiny_llama(torch.float32), adapter_name=None)


CPU_STEP = """
import sys, torch
from tiny import tiny_llama
from whet.kernels import select
model = tiny_llama(torch.float32).train()
select.install(model, adapter_name=None)
layer = model.model.layers[0]
x = torch.ones(1, 3, 64, requires_grad=True)
layer.mlp(layer.input_layernorm(x)).sum().backward()
print([name for name in sys.modules if name.startswith("whet.kernels.triton_")])
"""


def test_a_cpu_imports_no_kernel():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(triton_interpreter.ROOT / "tests" / "support"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", CPU_STEP], env=environment, capture_output=True, text=True, check=True, timeout=120
    )  # fmt: skip
    assert done.stdout.strip() == "['whet.kernels.triton_support']"


def test_widths_are_powers_of_two_that_hold_a_row():
    assert [triton_support.next_power_of_two(n) for n in (1, 2, 3, 576, 4096, 4097)] == [1, 2, 4, 1024, 4096, 8192]
    assert [triton_support.num_warps(n) for n in (1, 1024, 4096, 65536)] == [1, 2, 8, 16]
