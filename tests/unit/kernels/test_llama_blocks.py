import copy

import pytest
import torch
from tiny import LORA, attach, loss_model_of, make_samples, perturb, tiny_llama
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from whet.data.packing import pack
from whet.inference.engine import Decoding, generate
from whet.kernels import llama_blocks, select
from whet.kernels.dropout import DropoutState
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter

BATCH = pack(make_samples([9, 1, 14]))
ALL_BUT = {name: select.SWITCHES - {name} for name in ("qkv", "mlp", "rotary", "swiglu")}


def _with_biases():
    config = LlamaConfig(
        vocab_size=500, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=10, attention_bias=True, mlp_bias=True, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).double()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    return model


def _adapted(adapter=LORA, model=None):
    model = model or tiny_llama()
    dropout = DropoutState(0)
    trainables = attach(model, adapter, dropout)
    perturb(trainables)
    return model, list(trainables.named.values()), dropout


def _loss_and_gradients(model, parameters, dropout):
    with dropout.micro_batch(4, BATCH):
        nll = loss_model_of(model).nll_sum(BATCH)
        return [nll.detach(), *torch.autograd.grad(nll, parameters)]


def _assert_same(mine, theirs):
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [tiny_llama, _with_biases])
@pytest.mark.parametrize("off", [frozenset(), *ALL_BUT.values()])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_adapted_blocks_compute_what_transformers_and_peft_do(make, off, p):
    model, parameters, dropout = _adapted(Adapter(rank=3, alpha=8.0, rslora=True, dropout=p), make())
    model.train()
    results = []
    for switched_off in (off, select.SWITCHES):
        select.install(model, adapter_name=ADAPTER_NAME, off=switched_off)
        results.append(_loss_and_gradients(model, parameters, dropout))
    _assert_same(*results)


@pytest.mark.parametrize("make", [tiny_llama, _with_biases])
def test_blocks_whose_weights_train_compute_what_transformers_does(make):
    model, results = make(), []
    for off in (frozenset(), select.SWITCHES):
        select.install(model, adapter_name=None, off=off)
        results.append(_loss_and_gradients(model, list(model.parameters()), DropoutState(0)))
    _assert_same(*results)


@pytest.mark.parametrize("has_adapter", [True, False])
def test_answers_are_those_of_the_modules(has_adapter):
    """Prompts are read as packed rows into a cache and each new token meets that cache: the same modules do both."""
    model = tiny_llama()
    if has_adapter:
        perturb(attach(model, LORA), size=0.3)
    prompts = [[5, 17, 80, 3], [9], [200, 201, 202, 203, 204, 4]]
    answers = []
    for off in (frozenset(), select.SWITCHES):
        select.install(model, adapter_name=ADAPTER_NAME if has_adapter else None, off=off)
        answers.append(
            [c.ids for c in generate(model, prompts, stop_ids=frozenset(), decoding=Decoding(max_new_tokens=12))]
        )
    assert answers[0] == answers[1]
    assert len({ids[-1] for ids in answers[0]}) > 1, "answers that never change prove nothing"


def _runs(model, name):
    """Whether the fused functions are asked by a forward pass: then the projections themselves are not called."""
    calls = []
    original = nn.Module.__call__

    def watch(module, *args, **kwargs):
        calls.append(module)
        return original(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__call__", watch)
        loss_model_of(model).hidden(BATCH)
    projections = [module for module_name, module in model.named_modules() if module_name.endswith(name)]
    return not any(each in calls for each in projections)


def test_adapted_projections_are_fused_and_so_not_called_themselves():
    model, _, _ = _adapted()
    select.install(model, adapter_name=ADAPTER_NAME)
    assert _runs(model, "q_proj") and _runs(model, "down_proj")
    assert not _runs(model, "o_proj")


@pytest.mark.parametrize("projection", ["self_attn.k_proj", "mlp.up_proj"])
def test_a_hook_that_comes_later_is_not_passed_over(projection):
    model, _, _ = _adapted()
    select.install(model, adapter_name=ADAPTER_NAME)
    before_TE = loss_model_of(model).hidden(BATCH)
    seen = []
    model.get_submodule(f"model.layers.1.{projection}").register_forward_hook(lambda *_: seen.append(1))
    after_TE = loss_model_of(model).hidden(BATCH)
    assert len(seen) == 1
    torch.testing.assert_close(after_TE, before_TE, rtol=1e-12, atol=1e-12)


def test_a_hook_that_is_there_already_is_a_reason():
    model, _, _ = _adapted()
    model.model.layers[0].self_attn.v_proj.register_forward_pre_hook(lambda *_: None)
    chosen = select.install(model, adapter_name=ADAPTER_NAME)
    assert chosen["qkv"] == (
        "fused function in 1 blocks, the modules' own in 1 (model.layers.0.self_attn: v_proj: a hook is on it)"
    )


def test_an_adapter_that_is_switched_off_leaves_the_base():
    model, _, _ = _adapted()
    select.install(model, adapter_name=ADAPTER_NAME)
    base = tiny_llama()
    select.install(base, adapter_name=None)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.enable_adapters(False)
    assert torch.equal(loss_model_of(model).hidden(BATCH), loss_model_of(base).hidden(BATCH))


def test_a_copy_of_a_model_computes_with_its_own_weights():
    model, _, _ = _adapted()
    select.install(model, adapter_name=ADAPTER_NAME)
    before_TE = loss_model_of(model).hidden(BATCH)
    copied = copy.deepcopy(model)
    assert torch.equal(loss_model_of(copied).hidden(BATCH), before_TE)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    base = tiny_llama()
    select.install(base, adapter_name=None)
    torch.testing.assert_close(loss_model_of(copied).hidden(BATCH), loss_model_of(base).hidden(BATCH))
    assert torch.equal(loss_model_of(model).hidden(BATCH), before_TE)


def test_uninstalled_a_model_is_what_it_was_to_the_bit():
    model, _, _ = _adapted()
    model.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.arange(3, 20)[None]
    before = model(ids, use_cache=False).logits
    implementation = model.config._attn_implementation
    select.install(model, adapter_name=ADAPTER_NAME)
    loss_model_of(model).nll_sum(BATCH).backward()
    select.uninstall(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.config._attn_implementation == implementation
    assert torch.equal(model(ids, use_cache=False).logits, before)
    after = model.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)


def test_with_another_attention_chosen_the_class_computes():
    model = tiny_llama()
    ids = torch.arange(3, 20)[None]
    model.set_attn_implementation("eager")
    expected = model(ids, use_cache=False).logits
    select.install(model, adapter_name=None)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-12, atol=1e-12)


def test_where_a_projection_has_no_adapter_the_block_asks_its_modules_and_says_so():
    model, parameters, dropout = _adapted(Adapter(rank=2, targets=("q_proj", "v_proj", "down_proj")))
    chosen = select.install(model, adapter_name=ADAPTER_NAME)
    assert "the modules' own in 2 (model.layers.0.self_attn: k_proj has no adapter)" in chosen["qkv"]
    assert "the modules' own in 2 (model.layers.0.mlp: gate_proj has no adapter)" in chosen["mlp"]
    assert chosen["rotary"] == chosen["swiglu"] == "fused function in 2 blocks"
    fused = _loss_and_gradients(model, parameters, dropout)
    select.install(model, adapter_name=ADAPTER_NAME, off=select.SWITCHES)
    _assert_same(fused, _loss_and_gradients(model, parameters, dropout))


def _train_a_base_weight(model):
    model.model.layers[0].mlp.up_proj.base_layer.weight.requires_grad_(True)


def _change_the_activation(model):
    model.model.layers[0].mlp.act_fn = nn.GELU()


def _replace_the_forward(model):
    model.model.layers[0].mlp.forward = lambda x: x


def _replace_the_class(model):
    class Other(type(model.model.layers[0].mlp)):
        pass

    model.model.layers[0].mlp.__class__ = Other


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_train_a_base_weight, "up_proj: its base weight trains too"),
        (_change_the_activation, "its activation is GELU"),
        (_replace_the_forward, "its forward was replaced by something else"),
        (_replace_the_class, "it is a Other"),
    ],
)
def test_a_block_that_computes_something_else_is_left_alone_with_a_sentence(change, reason):
    model, _, _ = _adapted()
    change(model)
    report = llama_blocks.install(model, adapter_name=ADAPTER_NAME)["mlp"]
    assert (report.num_changed, report.reasons) == (1, [f"model.layers.0.mlp: {reason}"])


def test_dora_is_left_to_peft():
    model, _, _ = _adapted(Adapter(rank=2, method="dora"))
    chosen = select.install(model, adapter_name=ADAPTER_NAME)
    assert chosen["qkv"].startswith("fused function in 0 blocks") and "it is a LoRA variant" in chosen["qkv"]
    assert chosen["mlp"].startswith("fused function in 0 blocks") and "it is a LoRA variant" in chosen["mlp"]
