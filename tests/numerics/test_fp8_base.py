"""A base in float8 changes the products of training and nothing else: not what is repeated, saved, merged or loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    LORA,
    build_training,
    distance,
    gradients,
    make_plan,
    make_samples,
    perturb,
    run_steps,
    tiny_llama,
    values,
)  # fmt: skip
from tiny_runs import read_base, write_base

from whet.data.packing import pack
from whet.export.merged import export_merged
from whet.export.request import Request
from whet.kernels import fp8, recompute
from whet.kernels.fp8_linear import Fp8Linear, quantize_linears
from whet.models.load import load_pretrained
from whet.optim.build import load_optimizer_tensors, optimizer_tensors
from whet.recipe import load_recipe
from whet.recipe.schema import Adapter, Model, Optim
from whet.train.frozen_base import load_base
from whet.train.loop import Training
from whet.train.run import Options, run_recipe

CPU = torch.device("cpu")
LENGTHS = [17, 9, 30, 5, 12, 8]
KEPT = tuple(f"model.layers.{n}.self_attn.{name}_proj" for n in range(2) for name in "kqv")
DROPPING = Adapter(rank=4, alpha=8.0, dropout=0.3)
RECIPE = """
name: fp8
output: {folder}/run
model: {{id: {folder}/base, dtype: float32, quantize: fp8}}
adapter: {{rank: 4, alpha: 8, dropout: 0.1}}
data: {{train: [{{source: {folder}/rows.jsonl}}]}}
batch: {{global_size: 4, micro_size: 2}}
optim: {{lr: 1.0e-2}}
train: {{max_steps: 4, device: cpu, threads: 1, save_every: 2{train}}}
tracking: []
"""


def training_of(
    dtype: torch.dtype = torch.bfloat16, *, adapter: Adapter = DROPPING, is_rounded: bool = True, steps: int = 4,
    is_perturbed: bool = False,
) -> Training:  # fmt: skip
    model = tiny_llama(dtype)
    if is_rounded:
        quantize_linears(model, device=CPU, dtype=dtype)
    plan = make_plan(len(LENGTHS), micro_batch=2, global_batch=4, total_steps=steps)
    optim = Optim(lr=3e-3, schedule="constant", warmup=0)
    return build_training(
        model, make_samples(LENGTHS), plan, adapter=adapter, optim=optim, is_perturbed=is_perturbed
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("level", ["norms", "mlp", "full"])
def test_lean_mode_has_the_bits_of_the_run_that_keeps_everything(level, dtype):
    plain, lean = training_of(dtype), training_of(dtype)
    recompute.install(lean.model, level)
    assert [r.loss for r in run_steps(lean)] == [r.loss for r in run_steps(plain)]
    assert torch.equal(gradients(lean), gradients(plain))
    assert torch.equal(values(lean), values(plain))


def test_the_products_are_those_of_the_rounded_base_in_every_block():
    training = training_of()
    assert training.kernels["adapter"] == "fused function in 14 layers"
    assert training.kernels["qkv"] == training.kernels["mlp"] == "fused function in 2 blocks"


def test_fifty_steps_end_near_those_over_the_unrounded_base():
    ours, exact = training_of(steps=50), training_of(steps=50, is_rounded=False)
    losses, expected = ([record.loss for record in run_steps(run)] for run in (ours, exact))
    assert losses != expected, "nothing was rounded"
    assert expected[-1] < 0.7 * expected[0], "nothing was learnt"
    assert abs(sum(losses[-6:]) / sum(expected[-6:]) - 1) < 0.03


def test_a_document_in_a_pack_has_the_loss_that_it_has_alone():
    """Up to the rounding of sums, which may move a number across a tie."""
    training = training_of(torch.float32, adapter=LORA, is_perturbed=True)

    def nll(samples):
        batch = pack(samples)
        with training.dropout.micro_batch(0, batch), torch.no_grad():
            return training.loss_model.nll_sum(batch).item()

    apart = sum(nll([sample]) for sample in training.samples)
    assert nll(training.samples) == pytest.approx(apart, rel=1e-4)


def test_what_was_saved_comes_back_and_goes_on_bit_for_bit(tmp_path):
    whole, first = training_of(), training_of()
    run_steps(whole)
    run_steps(first, range(2))
    contents = {
        "adapter": first.trainables.tensors(),
        "optimizer": optimizer_tensors(first.optimizer, first.trainables.named),
    }
    for name, tensors in contents.items():
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, tmp_path / f"{name}.safetensors")
    second = training_of()
    perturb(second.trainables)  # what is loaded must not be there already
    second.trainables.load(load_file(tmp_path / "adapter.safetensors"))
    load_optimizer_tensors(second.optimizer, second.trainables.named, load_file(tmp_path / "optimizer.safetensors"))
    run_steps(second, range(2, 4))
    assert torch.equal(values(second), values(whole))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run over the tiny base in float8; `base` lies beside it."""
    write_base(tmp_path / "base")
    rows = [{"prompt": f"What is {n} and {n + 1}?", "completion": f"It is {2 * n + 1}."} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, train=""), encoding="utf-8")
    run_recipe(load_recipe(tmp_path / "recipe.yaml"), Options(say=lambda _: None))
    return tmp_path / "run"


def test_a_run_says_that_its_base_was_in_float8_and_merges_into_the_base_as_it_is(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["kernels"]["frozen base"].startswith("float8 emulated in 14 linear layers: ")
    assert summary["kernels"]["adapter"] == "fused function in 14 layers"
    identity = json.loads((finished / "model.json").read_text())
    assert identity["note"].endswith("14 of 14 linear layers rounded to float8 (e4m3) in training")

    export_merged(Request(run_folder=finished, output=finished.parent / "merged", is_proved=False, say=lambda _: None))
    merged = load_file(finished.parent / "merged" / "model.safetensors")
    base, adapter = read_base(finished.parent / "base").state_dict(), load_file(finished / "adapter_model.safetensors")
    num_changed = 0
    for name, weight in merged.items():
        expected_OI = base[name].double()
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{stem}A.weight" in adapter:
            expected_OI += 2.0 * adapter[f"{stem}B.weight"].double() @ adapter[f"{stem}A.weight"].double()
            assert distance(expected_OI, base[name]) > 1e-3
            assert distance(fp8.round_rows(base[name]), base[name]) > 1e-2
            num_changed += 1
        torch.testing.assert_close(weight.double(), expected_OI, rtol=1e-6, atol=1e-6)
    assert num_changed == 14


def test_a_continued_run_rounds_the_layers_that_its_plan_says(finished, monkeypatch):
    def weights() -> bytes:
        return (finished / "adapter_model.safetensors").read_bytes()

    recipe, all_rounded = load_recipe(finished.parent / "recipe.yaml"), weights()
    monkeypatch.setattr("whet.train.frozen_base.choose_kept", lambda costs, sizes: KEPT)
    run_recipe(recipe, Options(say=lambda _: None, fresh=True))
    some_rounded = weights()
    assert some_rounded != all_rounded
    assert tuple(json.loads((finished / "run_plan.json").read_text())["not_in_float8"]) == KEPT

    monkeypatch.setattr("whet.train.frozen_base.choose_kept", lambda costs, sizes: ())
    shutil.rmtree(finished / "checkpoint-4")
    (finished / "summary.json").unlink()
    (finished / "adapter_model.safetensors").unlink()
    run_recipe(recipe, Options(say=lambda _: None))
    assert weights() == some_rounded


def test_what_is_evaluated_is_the_base_as_it_is(tmp_path):
    write_base(tmp_path)
    loaded = load_pretrained(Model(id=str(tmp_path), quantize="fp8", dtype="float32"), device=CPU)
    assert not any(isinstance(module, Fp8Linear) for module in loaded.model.modules())
    exact = read_base(tmp_path).state_dict()
    assert all(torch.equal(weight, exact[name]) for name, weight in loaded.model.state_dict().items())


@pytest.mark.parametrize("recomputed", ["auto", "full"])
def test_the_weights_are_kept_a_second_time_unless_memory_is_short(tmp_path, monkeypatch, recomputed):
    monkeypatch.setattr(fp8, "why_emulated", lambda device, dtype: None)
    write_base(tmp_path / "base")
    text = RECIPE.format(folder=tmp_path, train=f", recompute: {recomputed}")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    loaded = load_base(replace(recipe, model=replace(recipe.model, dtype="bfloat16")), CPU, (), kept=KEPT).loaded
    layers = [module for module in loaded.model.modules() if isinstance(module, Fp8Linear)]
    assert len(layers) == 8 and loaded.compute_dtype == torch.bfloat16
    assert {layer.bytes_IO is not None for layer in layers} == {recomputed == "auto"}
    num_bytes = sum(tensor.nbytes for layer in layers for tensor in layer.fp8_weight if tensor is not None)
    num_weights, num_rows = (sum(of(layer) for layer in layers) for of in
                             (lambda each: each.weight.numel(), lambda each: each.out_features))  # fmt: skip
    assert num_bytes == (2 if recomputed == "auto" else 1) * num_weights + 4 * num_rows
