import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import loss_model_of, make_samples, tiny_llama

from whet.data.packing import pack
from whet.kernels import attention, select
from whet.kernels import compile as layer_compile

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def _loss_and_gradients(model, lengths):
    model.zero_grad()
    nll = loss_model_of(model).nll_sum(pack(make_samples(lengths)))
    nll.backward()
    return [nll.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.slow
@NEEDS_COMPILER
def test_compiled_layers_give_the_same_numbers_and_are_compiled_once_for_all_lengths():
    # a process of its own, as for a user: torch's compiler imports setuptools, which replaces distutils for everybody
    script = f"import sys; sys.path[:0] = {sys.path!r}; import {Path(__file__).stem} as t; print(*t.compare())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    num_graphs = [int(number) for number in done.stdout.split()]
    assert 0 < num_graphs[0] == num_graphs[3], "nothing was compiled again for other lengths"
    assert num_graphs[4] == num_graphs[0], "uninstalled, nothing is compiled"


def compare() -> list[int]:
    """Losses and gradients of four packs of different lengths, compiled against not, then a pack after `uninstall`:
    how many graphs there were after each."""
    from torch._dynamo.utils import counters

    plain, compiled = tiny_llama(torch.float32), tiny_llama(torch.float32)
    select.install(plain, adapter_name=None)
    select.install(compiled, adapter_name=None, off=layer_compile.TAKES_OVER)
    assert layer_compile.install(compiled) == "2 layers through torch.compile, attention outside"
    num_graphs = []
    for lengths in ([5, 9], [7, 3, 20], [31], [4, 4, 4, 4]):
        for got, want in zip(*(_loss_and_gradients(m, lengths) for m in (compiled, plain)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        num_graphs.append(counters["stats"]["unique_graphs"])
    layer_compile.uninstall(compiled)
    assert compiled.config._attn_implementation == attention.NAME
    _loss_and_gradients(compiled, [6, 11])
    return [*num_graphs, counters["stats"]["unique_graphs"]]


def test_what_speaks_against_compiling_is_told(monkeypatch):
    assert "fused functions" in layer_compile.why_not(has_adapter=True, recompute="none")
    assert layer_compile.why_not(has_adapter=False, recompute="mlp") == "recompute is mlp"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler no-such-compiler" in layer_compile.why_not(has_adapter=False, recompute="none")


@NEEDS_COMPILER
def test_nothing_speaks_against_compiling_a_model_that_trains_as_a_whole(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert layer_compile.why_not(has_adapter=False, recompute="none") is None
