"""Laws of every kind of adapter: at step 0 it is the base, and live = saved = read by PEFT = merged = by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from saved_adapter import read_adapter
from tiny import (
    IDENTITY,
    VOCAB,
    attach,
    build_training,
    distance,
    loss_model_of,
    make_plan,
    make_samples,
    perturb,
    run_steps,
    summed_nll,
    tiny_llama,
)

from whet.data.packing import pack
from whet.errors import RecipeError
from whet.kernels import select
from whet.models import adapter_init
from whet.models.adapter_init import START_NAME
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_NAME, linear_names
from whet.models.merge import merge_adapter
from whet.optim.build import load_optimizer_tensors, optimizer_tensors
from whet.recipe.schema import STARTS_INSIDE_BASE, Adapter, Optim

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
    "eva": Adapter(rank=4, alpha=10.0, init="eva"),
    "eva, dora, norms too": Adapter(rank=4, alpha=10.0, method="dora", init="eva", also_train=("norms",)),
    "corda": Adapter(rank=4, alpha=10.0, init="corda"),
    "corda + rslora, several ranks": Adapter(rank=3, alpha=10.0, init="corda", rslora=True, ranks={"v_proj": 5}),
    "lora_ga": Adapter(rank=4, alpha=10.0, init="lora_ga"),
    "lora_ga + rslora": Adapter(rank=6, alpha=10.0, init="lora_ga", rslora=True),
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
            assert kernels["qkv"] == kernels["mlp"] == "fused function in 2 blocks"
        else:
            select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME, off=select.SWITCHES)
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
    monkeypatch.setattr(adapter_init, "factors_from_rows", refuse)
    _, again = _attached(KINDS[kind], seed=9, is_restored=True)
    again.load(load_file(tmp_path / again.weights_file), {n: t.detach() for n, t in trainables.rounded().items()})
    for mine, theirs in ((trainables.named, again.named), (trainables.starts, again.starts)):
        assert set(mine) == set(theirs)
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)


def _pefts_own(adapter, dtype):
    """PEFT's model with its base edited, as published; in float64 by the same factors, without float32's rounding."""
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, use_rslora=adapter.rslora, init_lora_weights=adapter.init,
        target_modules=sorted(linear_names(tiny_llama())), task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(tiny_llama(torch.float32), config).to(dtype)
    if dtype == torch.float64:
        weights = tiny_llama(dtype).state_dict()
        for name, layer in model.base_model.model.named_modules():
            if hasattr(layer, "lora_A"):
                layer.base_layer.weight.data = weights[f"{name}.weight"] - layer.get_delta_weight("default").detach()
    return model, {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["pissa", "pissa + rslora", "olora"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_ten_steps_from_a_start_are_those_of_peft_with_its_base_edited(kind, dtype, tolerance):
    """Losses to 1e-10 and 1e-5, the factors' way to the tolerance: Adam divides small gradients by their size."""
    samples = make_samples([17, 9, 30, 12])
    plan = make_plan(4, micro_batch=2, global_batch=4, total_steps=10)
    optim = Optim(lr=1e-3, schedule="constant", warmup=0, max_grad_norm=1.0)
    training = build_training(
        tiny_llama(dtype), samples, plan, adapter=KINDS[kind], optim=optim, is_perturbed=False
    )  # fmt: skip
    assert training.kernels["adapter"] == "fused function in 14 layers"
    theirs, named = _pefts_own(KINDS[kind], dtype)
    for name, parameter in training.trainables.named.items():
        assert torch.equal(parameter, named[name]), "the starts are not the same"
    start = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.AdamW(named.values(), lr=1e-3, weight_decay=0.0)
    for record in run_steps(training):
        loss = sum(summed_nll(theirs, s) for s in samples) / sum(s.num_taught for s in samples)
        assert record.loss == pytest.approx(loss.item(), rel=1e-10 if dtype == torch.float64 else 1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
    ways = [
        torch.cat([(values[n].detach() - start[n]).reshape(-1) for n in named])
        for values in (training.trainables.named, named)
    ]
    assert ways[1].abs().max() > 5e-3
    assert distance(*ways) < tolerance


def test_the_base_under_a_start_is_not_touched():
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = _attached(KINDS["pissa"], dtype)
        before = tiny_llama(dtype).state_dict()
        after = {n.replace("base_layer.", ""): t for n, t in model.state_dict().items()}
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_start_never_trains_and_is_the_trained_factors_first_value():
    model, trainables = _attached(KINDS["pissa"])
    starts = {n: p for n, p in model.named_parameters() if f".{START_NAME}." in n}
    assert len(starts) == 28 and not any(p.requires_grad for p in starts.values())
    for name, start in trainables.starts.items():
        sign = -1 if "lora_B" in name else 1
        assert torch.equal(sign * start, trainables.named[name.replace(f".{START_NAME}.", ".")])


@pytest.mark.parametrize(
    "init", ["default", "gaussian", "orthogonal", "pissa", "pissa_fast", "olora", "eva", "corda", "lora_ga"]
)
def test_the_seed_alone_decides_every_start(init):
    before = torch.get_rng_state()
    adapter = Adapter(rank=4, init=init)
    first, same, other = (_attached(adapter, seed=seed)[1].all_values for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], same[n]) for n in first)
    is_drawn = init not in ("pissa", "olora", "eva", "corda")
    assert is_drawn != all(torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("kind", ["lora", "pissa", "pissa + rslora", "olora", "dora"])
def test_a_bfloat16_file_is_nearly_the_float32_one(kind, tmp_path):
    """Mean KL below 1e-3, of the adapter's file in bfloat16 and of the merged weights."""
    model, trainables = _moved(KINDS[kind])
    live = _logits(model).log_softmax(-1)
    config = trainables.documents[ADAPTER_CONFIG]
    narrow = {name: t.detach().bfloat16() for name, t in trainables.tensors().items()}
    applied, merged = tiny_llama(torch.float32), tiny_llama(torch.float32)
    merge_adapter(applied, config, narrow)
    merge_adapter(merged, config, {name: t.detach() for name, t in trainables.tensors().items()})
    for artefact in (applied, merged.bfloat16().float()):
        logits = _logits(artefact).log_softmax(-1)
        assert (live.exp() * (live - logits)).sum(-1).mean() < 1e-3


def test_embeddings_that_the_head_does_not_share_can_train_along(tmp_path):
    base = tiny_llama(torch.float32, is_tied=False)
    model = tiny_llama(torch.float32, is_tied=False)
    trainables = attach(model, Adapter(rank=4, also_train=("embeddings", "norms")))
    perturb(trainables, size=0.03)
    live = _logits(model)
    assert (live - _logits(base)).abs().max() > 0.1
    _save(trainables, tmp_path)
    assert "base_model.model.model.embed_tokens.weight" in load_file(tmp_path / trainables.weights_file)
    read = PeftModel.from_pretrained(tiny_llama(torch.float32, is_tied=False), tmp_path)
    merge_adapter(base, *read_adapter(tmp_path))
    assert (_logits(read) - live).abs().max() < 1e-4
    assert (_logits(base) - live).abs().max() < 1e-4


def test_weights_trained_along_are_float32_and_keep_the_dtype_of_the_model():
    model, trainables = _attached(KINDS["norms too"], torch.bfloat16)
    norms = [p for n, p in trainables.named.items() if "norm" in n]
    assert len(norms) == 5 and {p.dtype for p in norms} == {torch.float32}
    select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
    nll = loss_model_of(model).nll_sum(pack([SAMPLE]))
    nll.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in norms)


@pytest.mark.parametrize(
    ("adapter", "is_tied", "said"),
    [
        (Adapter(targets=("q_proj", "lm_head")), True, "the output head lm_head, which is the embedding itself"),
        (Adapter(targets=("q_proj", "lm_head")), False, "the output head lm_head, which is read by the loss without"),
        (Adapter(also_train=("embeddings",)), True, "this model's output head is its embedding"),
        (Adapter(ranks={"c_attn": 4}), True, "adapter.ranks names layers that get no adapter: c_attn"),
        (Adapter(init="pissa", rank=33), True, "adapter.init pissa has no 33 directions in .*k_proj of 32 x 64"),
        (Adapter(init="eva", rank=65), True, "adapter.init eva has no 65 directions in .*q_proj of 64 x 64"),
        (Adapter(init="corda", rank=33), True, "adapter.init corda has no 33 directions in .*k_proj of 32 x 64"),
        (Adapter(init="lora_ga", rank=17), True, "adapter.init lora_ga has no 17 directions in .*k_proj of 32 x 64"),
    ],
)
def test_what_the_model_has_no_place_for_is_refused(adapter, is_tied, said):
    with pytest.raises(RecipeError, match=said):
        attach(tiny_llama(torch.float32, is_tied=is_tied), adapter)


def _run_with_dropout(kind, folder=None, *, steps):
    """Values after `steps`, from the start or from what `folder` holds of the first two steps."""
    adapter = dataclasses.replace(KINDS[kind], dropout=0.3, lr_ratio=4.0)
    plan = make_plan(8, micro_batch=2, global_batch=4, total_steps=4)
    model = tiny_llama(torch.float32)
    training = build_training(
        model, make_samples([17, 9, 30, 12, 5, 8, 21, 3]), plan, adapter=adapter, is_perturbed=False
    )  # fmt: skip
    if folder:
        trainables = training.trainables
        perturb(trainables)  # what is loaded must not be there already
        trainables.load(load_file(folder / "adapter.safetensors"), load_file(folder / "rounded.safetensors"))
        load_optimizer_tensors(training.optimizer, trainables.named, load_file(folder / "optimizer.safetensors"))
    run_steps(training, steps)
    return training


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_saved_and_restored_goes_on_bit_for_bit(kind, tmp_path):
    whole = _run_with_dropout(kind, steps=range(4))
    first = _run_with_dropout(kind, steps=range(2))
    contents = {
        "adapter": first.trainables.tensors(),
        "rounded": first.trainables.rounded(),
        "optimizer": optimizer_tensors(first.optimizer, first.trainables.named),
    }
    for name, tensors in contents.items():
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, tmp_path / f"{name}.safetensors")
    second = _run_with_dropout(kind, tmp_path, steps=range(2, 4))
    for name, value in whole.trainables.all_values.items():
        assert torch.equal(value, second.trainables.all_values[name]), name
