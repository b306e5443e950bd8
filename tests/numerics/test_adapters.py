"""Laws of every kind of adapter: at step 0 it is the base, and live = saved = read by PEFT = merged = by hand."""

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import IDENTITY, VOCAB, attach, distance, loss_model_of, make_samples, perturb, tiny_llama

from whet.data.packing import pack
from whet.kernels import lora_linear, select
from whet.models import adapter_init
from whet.models.adapter_init import START_NAME
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_NAME, read_adapter
from whet.models.merge import merge_adapter
from whet.recipe.schema import STARTS_INSIDE_BASE, Adapter

KINDS = {
    "lora": Adapter(rank=4, alpha=10.0),
    "gaussian": Adapter(rank=4, alpha=10.0, init="gaussian"),
    "orthogonal": Adapter(rank=4, alpha=10.0, init="orthogonal"),
    "rslora": Adapter(rank=6, alpha=10.0, rslora=True),
    "dora": Adapter(rank=4, alpha=10.0, method="dora"),
    "dora + rslora": Adapter(rank=6, alpha=10.0, method="dora", rslora=True),
    "pissa": Adapter(rank=4, alpha=10.0, init="pissa"),
    "pissa fast": Adapter(rank=4, alpha=10.0, init="pissa_fast"),
    "pissa + rslora": Adapter(rank=6, alpha=10.0, init="pissa", rslora=True),
    "olora": Adapter(rank=4, alpha=10.0, init="olora"),
    "several ranks": Adapter(rank=4, alpha=10.0, ranks={"q_proj": 7, "down_proj": 2}),
    "pissa + rslora, several ranks": Adapter(rank=3, alpha=10.0, init="pissa", rslora=True, ranks={"v_proj": 5}),
    "dora, several ranks": Adapter(rank=4, alpha=10.0, method="dora", ranks={"up_proj": 3}),
    "norms too": Adapter(rank=4, alpha=10.0, also_train=("norms",)),
    "pissa, norms too": Adapter(rank=4, alpha=10.0, init="pissa", also_train=("norms",)),
}
SAMPLE = make_samples([40])[0]
IDS_BT = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (3, 40)))


def _logits(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits.double()


def _attached(adapter, dtype=torch.float32, **options):
    model = tiny_llama(dtype)
    return model, attach(model, adapter, **options)


def _moved(adapter, dtype=torch.float32):
    """An adapter away from its start: every factor by a tenth of its own size, B also where it starts at zero."""
    model, trainables = _attached(adapter, dtype)
    perturb(trainables, size=0.03)
    return model, trainables


def _by_hand(folder, dtype=torch.float32):
    """W + (alpha / r) B A out of the file, with numpy in float64; DoRA scales every row to its length."""
    config, tensors = read_adapter(folder)
    tensors = {name.removeprefix("base_model.model."): t.numpy().astype(np.float64) for name, t in tensors.items()}
    model = tiny_llama(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            stem = name.removesuffix(".weight")
            value = weight.double().numpy()
            if f"{stem}.lora_A.weight" in tensors:
                value = (
                    value
                    + config["lora_alpha"]
                    / config["r"]
                    * tensors[f"{stem}.lora_B.weight"]
                    @ (tensors[f"{stem}.lora_A.weight"])
                )
            if (length := tensors.get(f"{stem}.lora_magnitude_vector")) is not None:
                value = length[:, None] * value / np.linalg.norm(value, axis=1, keepdims=True)
            weight.copy_(torch.from_numpy(tensors.get(name, value)))
    return model


def _save(trainables, folder):
    save_file({n: t.detach().contiguous() for n, t in trainables.tensors().items()}, folder / trainables.weights_file)
    for name, document in trainables.documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_the_model_is_the_base(kind, dtype):
    model, _ = _attached(KINDS[kind], dtype)
    select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
    base = tiny_llama(dtype)
    select.install(base, adapter_name=None)
    with torch.no_grad():
        hidden, expected = (loss_model_of(m).hidden(pack([SAMPLE])).double() for m in (model, base))
    if kind == "orthogonal":
        # B A is zero but for the rounding of the float32 draw and, in bfloat16, of the factors as they are multiplied
        assert 0 < distance(hidden, expected) < (2e-2 if dtype == torch.bfloat16 else 2e-6)
    else:
        assert torch.equal(hidden, expected)


def test_with_and_without_the_fused_layer_a_start_is_the_same_model():
    model, trainables = _moved(KINDS["pissa"], torch.float64)
    batch, results = pack([SAMPLE]), []
    for is_fused in (True, False):
        if is_fused:
            kernels = select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
            assert kernels["adapter"] == "fused function in 14 layers"
        else:
            lora_linear.uninstall(model)
        nll = loss_model_of(model).nll_sum(batch)
        grads = torch.autograd.grad(nll, list(trainables.named.values()))
        results.append((nll.item(), torch.cat([g.reshape(-1) for g in grads])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert distance(results[0][1], results[1][1]) < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_live_is_saved_is_read_by_peft_is_merged_is_by_hand(kind, tmp_path):
    model, trainables = _moved(KINDS[kind])
    live = _logits(model)
    changed = (live.argmax(-1) != _logits(tiny_llama(torch.float32)).argmax(-1)).double().mean()
    assert changed > 0.05, "an adapter that does nothing proves nothing"
    select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
    with torch.no_grad():
        hidden_TE = loss_model_of(model).hidden(pack([SAMPLE]))
    _save(trainables, tmp_path)

    read = PeftModel.from_pretrained(tiny_llama(torch.float32), tmp_path)
    merged = tiny_llama(torch.float32)
    merge_adapter(merged, *read_adapter(tmp_path))
    again, other = _attached(KINDS[kind], seed=9, is_restored=True)
    other.load(load_file(tmp_path / other.weights_file), trainables.rounded())
    for artefact in (read, merged, _by_hand(tmp_path), again):
        assert (_logits(artefact) - live).abs().max() < 1e-4
    assert (_logits(read.merge_and_unload()) - live).abs().max() < 1e-4
    select.install(merged, adapter_name=None)
    with torch.no_grad():
        assert distance(loss_model_of(merged).hidden(pack([SAMPLE])), hidden_TE) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_plain_lora_of_one_rank_and_one_alpha(kind, tmp_path):
    adapter = KINDS[kind]
    _, trainables = _moved(adapter)
    config, tensors = trainables.documents[ADAPTER_CONFIG], trainables.tensors()
    rank = max(adapter.rank, *adapter.ranks.values(), 0) * (2 if adapter.init in STARTS_INSIDE_BASE else 1)
    assert config["r"] == rank
    assert {t.shape[0] for n, t in tensors.items() if "lora_A" in n} == {rank}
    assert {t.shape[1] for n, t in tensors.items() if "lora_B" in n} == {rank}
    assert config["init_lora_weights"] is True and config["use_rslora"] is False
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    if not adapter.ranks:
        scale = adapter.alpha / (math.sqrt(adapter.rank) if adapter.rslora else adapter.rank)
        assert config["lora_alpha"] / rank == pytest.approx(scale, rel=1e-12)
    if kind == "lora":
        assert config["lora_alpha"] == 10.0
    assert config["base_model_name_or_path"] == IDENTITY.id


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back_to_the_last_bit(kind, tmp_path, monkeypatch):
    """Also the start, without another decomposition."""
    _, trainables = _moved(KINDS[kind])
    _save(trainables, tmp_path)

    def refuse(*_):
        raise AssertionError("the start is computed again")

    monkeypatch.setattr(adapter_init, "_factorise", refuse)
    _, again = _attached(KINDS[kind], seed=9, is_restored=True)
    again.load(load_file(tmp_path / again.weights_file), {n: t.detach() for n, t in trainables.rounded().items()})
    for mine, theirs in ((trainables.named, again.named), (trainables.starts, again.starts)):
        assert set(mine) == set(theirs)
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)
