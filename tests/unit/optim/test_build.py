import pytest
import torch
from tiny import tiny_llama
from torch import nn

from whet.errors import StorageError
from whet.optim.build import build_optimizer, load_optimizer_tensors, optimizer_tensors
from whet.recipe.schema import Optim

OPTIM = Optim(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)


def _named():
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix.weight": (3, 4), "norm.weight": (4,), "matrix.bias": (3,), "odd_bias": (2, 2)}
    return {n: nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for n, s in shapes.items()}


def _step(named, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    optimizer.step()


def test_the_update_is_adamw_by_hand():
    named = _named()
    before = {n: p.detach().clone() for n, p in named.items()}
    optimizer = build_optimizer(named, OPTIM)
    m, v = ({n: torch.zeros_like(p) for n, p in named.items()} for _ in range(2))
    for t in (1, 2, 3):
        _step(named, optimizer, seed=t)
        for name, p in named.items():
            decay = 0.1 if name == "matrix.weight" else 0.0
            m[name] = 0.8 * m[name] + 0.2 * p.grad
            v[name] = 0.9 * v[name] + 0.1 * p.grad**2
            scaled = (m[name] / (1 - 0.8**t)) / ((v[name] / (1 - 0.9**t)).sqrt() + 1e-6)
            before[name] = before[name] * (1 - 0.01 * decay) - 0.01 * scaled
    for name, p in named.items():
        torch.testing.assert_close(p.detach(), before[name], rtol=1e-10, atol=1e-12)


def test_weight_decay_spares_the_parameters_that_hugging_face_spares():
    from transformers.trainer_pt_utils import get_parameter_names

    model = tiny_llama()
    named = dict(model.named_parameters())
    spared = {n for n in named if "norm" in n or n.endswith("bias")}
    optimizer = build_optimizer(named, OPTIM)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {n for n, p in named.items() if id(p) not in decayed} == spared
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    assert set(get_parameter_names(model, [nn.LayerNorm], forbidden)) & set(named) == set(named) - spared


def test_b_learns_at_its_ratio_as_in_pefts_lora_plus():
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer
    from tiny import LORA, attach

    trainables = attach(tiny_llama(), LORA)
    mine = build_optimizer(trainables.named, OPTIM, lr_ratio=16)
    theirs_model = get_peft_model(tiny_llama(), LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM"))
    theirs = create_loraplus_optimizer(
        theirs_model, torch.optim.AdamW, lr=OPTIM.lr, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
    )

    def rates(optimizer, named):
        by_parameter = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
        return {name: by_parameter[id(p)] for name, p in named.items()}

    named = {n.replace(".default.", "."): p for n, p in theirs_model.named_parameters() if p.requires_grad}
    assert rates(mine, trainables.named) == rates(theirs, named)
    assert {group["lr_scale"] for group in mine.param_groups} == {1.0, 16.0}


def test_moments_have_the_dtype_of_their_parameter():
    named = {"a.weight": nn.Parameter(torch.zeros(2, 2)), "b.weight": nn.Parameter(torch.zeros(2, 2).double())}
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    optimizers = [build_optimizer({n: p}, OPTIM) for n, p in named.items()]
    for optimizer, parameter in zip(optimizers, named.values(), strict=True):
        optimizer.step()
        assert optimizer.state[parameter]["exp_avg"].dtype == parameter.dtype


def test_a_saved_state_goes_on_bit_for_bit():
    straight, broken_off = _named(), _named()
    optimizer = build_optimizer(straight, OPTIM)
    for seed in (1, 2, 3):
        _step(straight, optimizer, seed)
    first = build_optimizer(broken_off, OPTIM)
    _step(broken_off, first, 1)
    saved = {n: t.clone() for n, t in optimizer_tensors(first, broken_off).items()}
    assert sorted(saved) == sorted(f"{n}.{k}" for n in broken_off for k in ("step", "exp_avg", "exp_avg_sq"))
    # the order of names in the file does not matter
    second = build_optimizer(broken_off, OPTIM)
    load_optimizer_tensors(second, broken_off, dict(reversed(list(saved.items()))))
    for seed in (2, 3):
        _step(broken_off, second, seed)
    assert all(torch.equal(straight[n], broken_off[n]) for n in straight)


def test_there_is_no_state_before_the_first_step():
    named = _named()
    assert optimizer_tensors(build_optimizer(named, OPTIM), named) == {}


@pytest.mark.parametrize("fault", ["missing", "foreign", "shape"])
def test_state_of_other_parameters_is_refused(fault):
    named = _named()
    optimizer = build_optimizer(named, OPTIM)
    _step(named, optimizer, 1)
    saved = optimizer_tensors(optimizer, named)
    if fault == "missing":
        del saved["norm.weight.exp_avg"]
    elif fault == "foreign":
        saved["other.weight.exp_avg"] = torch.zeros(1)
    else:
        saved["norm.weight.exp_avg"] = torch.zeros(5)
    with pytest.raises(StorageError, match="norm.weight" if fault != "foreign" else "other.weight"):
        load_optimizer_tensors(build_optimizer(named, OPTIM), named, saved)
