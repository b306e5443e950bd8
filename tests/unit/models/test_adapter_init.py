"""Starts by PEFT's methods, against singular value and QR decompositions made here."""

import time

import numpy as np
import pytest
import torch
from tiny import attach, tiny_llama

from whet.models.adapter_init import START_NAME
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter


def _layers(adapter, dtype=torch.float32):
    model = tiny_llama(dtype)
    attach(model, adapter)
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            weight = layer.base_layer.weight.detach().double().numpy()
            b, a = (f[ADAPTER_NAME].weight.detach().double().numpy() for f in (layer.lora_B, layer.lora_A))
            yield name, weight, layer.scaling[ADAPTER_NAME] * b @ a


@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_starts_with_the_largest_components_of_every_weight(rslora):
    """s B0 A0 = U_r S_r V_r^T (arXiv:2404.02948, eq. 2 to 4), whatever the scale."""
    for _, weight, start in _layers(Adapter(rank=4, alpha=10.0, init="pissa", rslora=rslora)):
        u, s, v = np.linalg.svd(weight, full_matrices=False)
        expected = u[:, :4] * s[:4] @ v[:4]
        # float32 finds a component up to its precision over the gap to the next one
        assert np.linalg.norm(start - expected) < 1e-4 * np.linalg.norm(expected)


def test_fast_pissa_leaves_hardly_more_of_a_weight_than_pissa():
    """Random weights have a flat spectrum, the hardest case: their next component is as large as the last taken."""
    for _, weight, start in _layers(Adapter(rank=4, alpha=10.0, init="pissa_fast")):
        rest = np.sqrt((np.linalg.svd(weight, compute_uv=False)[4:] ** 2).sum())
        assert rest * (1 - 1e-6) <= np.linalg.norm(weight - start) < 1.01 * rest


def test_olora_starts_with_the_first_columns_of_qr():
    """B0 A0 = Q_r R_r (arXiv:2406.01775, algorithm 1)."""
    for _, weight, start in _layers(Adapter(rank=4, alpha=10.0, init="olora")):
        q, r = np.linalg.qr(weight)
        np.testing.assert_allclose(start, 10.0 / 4 * q[:, :4] @ r[:4], rtol=0, atol=1e-5)


def test_gaussian_is_drawn_with_the_inverse_rank_and_orthogonal_cancels():
    model = tiny_llama(torch.float32)
    trainables = attach(model, Adapter(rank=8, init="gaussian"))
    drawn = torch.cat([p.detach().reshape(-1) for n, p in trainables.named.items() if "lora_A" in n])
    assert float(drawn.std()) == pytest.approx(1 / 8, rel=0.05)
    assert not any(p.any() for n, p in trainables.named.items() if "lora_B" in n)
    for _, _, start in _layers(Adapter(rank=8, init="orthogonal"), torch.bfloat16):
        # of factors of about 0.07: zero but for float32's rounding, also over a bfloat16 base
        assert np.abs(start).max() < 1e-7


def test_a_restored_start_is_not_decomposed_and_still_subtracted():
    model = tiny_llama(torch.float32)
    trainables = attach(model, Adapter(rank=4, init="pissa"), is_restored=True)
    assert len(trainables.starts) == 28
    assert all(START_NAME in layer.active_adapters for layer in model.modules() if hasattr(layer, "lora_A"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.smollm2
@pytest.mark.parametrize("init", ["pissa", "pissa_fast"])
def test_the_components_of_all_layers_of_smollm2_are_found_in_a_minute(init):
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model

    loaded = load_pretrained(Model(dtype="float32"), device=torch.device("cpu"))
    started = time.process_time()  # seconds of all cores: on a machine that does nothing else, no less than the clock's
    attach(loaded.model, Adapter(rank=16, init=init))
    assert time.process_time() - started < 60
