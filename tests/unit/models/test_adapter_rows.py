"""Starts that look at rows, against numpy over what a model without an adapter reads and against PEFT's own."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tiny import FIRST_ROWS, attach, distance, make_samples, summed_nll, tiny_llama

from whet.errors import NonFiniteError, RecipeError
from whet.models import adapter_rows
from whet.models.adapters import ADAPTER_NAME, linear_names
from whet.recipe.schema import Adapter

pytestmark = pytest.mark.slow

ROWS = make_samples(FIRST_ROWS, seed=7)
SCALE = 10.0 / 4


def _started(init, dtype=torch.float64):
    """{layer: (A, B) in numpy} of rank 4."""
    model = tiny_llama(dtype)
    attach(model, Adapter(rank=4, alpha=10.0, init=init))
    return {
        name: tuple(f[ADAPTER_NAME].weight.detach().double().numpy() for f in (layer.lora_A, layer.lora_B))
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }


def _linears(model):
    return {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in linear_names(model)}


def _inputs_and_gradients():
    """{layer: (inputs of each row, gradient of the summed loss)} of the model without an adapter, in float64."""
    model = tiny_llama()
    layers, inputs = _linears(model), {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _m, x, _y, name=name: inputs.setdefault(name, []).append(x[0][0].detach()))
    sum(summed_nll(model, row) for row in ROWS).backward()
    return {name: ([x.numpy() for x in inputs[name]], layer.weight.grad.numpy()) for name, layer in layers.items()}


def _up_to_signs(vectors, expected):
    """`vectors` with the sign of each row that brings it closest to `expected`."""
    return vectors * np.sign((vectors * expected).sum(1, keepdims=True))


def test_eva_starts_with_the_principal_directions_of_every_layers_inputs():
    started = _started("eva")
    for name, (inputs, _) in _inputs_and_gradients().items():
        inputs = np.concatenate(inputs)
        assert len(inputs) == sum(FIRST_ROWS)
        expected = np.linalg.svd(inputs - inputs.mean(0))[2][:4]
        a, b = started[name]
        np.testing.assert_allclose(_up_to_signs(a, expected), expected, atol=1e-9)
        assert not b.any()


def test_eva_is_pefts_where_all_rows_come_at_once():
    from peft.utils.incremental_pca import IncrementalPCA

    started = _started("eva")
    for name, (inputs, _) in _inputs_and_gradients().items():
        found = IncrementalPCA(n_components=4).partial_fit(torch.from_numpy(np.concatenate(inputs)))
        np.testing.assert_allclose(started[name][0], found.components_.numpy(), atol=1e-9)


def test_corda_starts_with_what_the_inputs_make_largest():
    """s B A = U_r S_r V_r^T C^-1 of W C (arXiv:2406.05223, eq. 1 and 2); C = X^T X, X over its largest in each row."""
    started = _started("corda")
    for name, (inputs, _) in _inputs_and_gradients().items():
        c = np.mean([(x / x.max()).T @ (x / x.max()) for x in inputs], axis=0)
        c += 0.01 * np.diag(c).mean() * np.eye(len(c))
        weight = _linears(tiny_llama())[name].weight.detach().numpy()
        u, s, v = np.linalg.svd(weight @ c, full_matrices=False)
        a, b = started[name]
        np.testing.assert_allclose(SCALE * b @ a, u[:, :4] * s[:4] @ v[:4] @ np.linalg.inv(c), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), np.sqrt(s[:4] / SCALE), rtol=1e-9)


def test_corda_is_pefts(monkeypatch):
    # PEFT's module takes `dataclass` from a package that PEFT does not ask for
    monkeypatch.setitem(sys.modules, "attr", dataclasses)
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    model = tiny_llama(torch.float32)
    config = LoraConfig(
        r=4, init_lora_weights="corda", target_modules=sorted(linear_names(model)),
        corda_config=CordaConfig(corda_method="ipm"),
    )  # fmt: skip
    preprocess_corda(model, config, run_model=lambda: [summed_nll(model, row) for row in ROWS])
    started = _started("corda", torch.float32)
    for name, layer in _linears(model).items():
        found = layer.eigens
        theirs = (found.U_WC * found.S_WC) @ found.V_WC.T
        a, b = (torch.from_numpy(f) for f in started[name])
        assert distance(SCALE * b @ a, theirs) < 1e-3


def test_lora_ga_starts_with_the_gradients_directions():
    """A = c V_1..r^T, B = c U_r+1..2r with c = O^(1/4) / sqrt(16) (arXiv:2407.05000, algorithm 1)."""
    started = _started("lora_ga")
    for name, (_, gradient) in _inputs_and_gradients().items():
        u, _, v = np.linalg.svd(gradient)
        length = len(gradient) ** 0.25 / 4
        a, b = started[name]
        np.testing.assert_allclose(_up_to_signs(a, v[:4]), length * v[:4], atol=1e-6)
        np.testing.assert_allclose(_up_to_signs(b.T, u.T[4:8]), length * u.T[4:8], atol=1e-6)


@pytest.mark.parametrize("init", ["eva", "corda", "lora_ga"])
def test_layers_looked_at_one_by_one_start_as_all_together(init, monkeypatch):
    together = _started(init)
    monkeypatch.setattr(adapter_rows, "_GROUP_BYTES", 0)
    alone = _started(init)
    for name, factors in together.items():
        for mine, theirs in zip(factors, alone[name], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("init", ["eva", "corda", "lora_ga"])
def test_looking_leaves_nothing_behind(init):
    model = tiny_llama(torch.float32)
    trainables = attach(model, Adapter(rank=4, init=init))
    assert all(p.grad is None for p in model.parameters())
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trainables.named.values()}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert not module._forward_pre_hooks
            assert not module.weight._post_accumulate_grad_hooks
            assert not hasattr(module, "covariance_matrix")


def test_rows_with_fewer_tokens_than_eva_needs_are_refused():
    attach(tiny_llama(torch.float32), Adapter(rank=9, init="eva"), row_lengths=(4, 6))
    with pytest.raises(RecipeError, match=r"needs more tokens than adapter\.rank 10; the first rows have 10"):
        attach(tiny_llama(torch.float32), Adapter(rank=10, init="eva"), row_lengths=(4, 6))


@pytest.mark.parametrize(("init", "what"), [("eva", "inputs"), ("corda", "inputs"), ("lora_ga", "gradient")])
def test_rows_that_overflow_are_said_before_anything_is_decomposed(init, what):
    model = tiny_llama(torch.float32)
    model.model.layers[0].input_layernorm.weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match=f"the {what} of .*layers.0.self_attn.q_proj are all zero or not finite"):
        attach(model, Adapter(rank=4, init=init))
