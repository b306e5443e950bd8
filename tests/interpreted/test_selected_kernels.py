import pytest
import torch
from tiny import LORA, build_training, distance, make_plan, make_samples, run_steps, tiny_llama, values
from torch.nn import functional

from whet.kernels import attention, recompute, select, triton_norm, triton_rotary, triton_swiglu

KERNELS = (
    (triton_norm, "forward"), (triton_norm, "backward"), (triton_rotary, "turn"), (triton_swiglu, "forward"),
    (triton_swiglu, "backward"), (triton_swiglu, "backward_into"),
)  # fmt: skip
LENGTHS = (4, 3, 3, 2)


def _counting(function, counts, counted):
    def call(*args, **kwargs):
        counts[counted] += 1
        return function(*args, **kwargs)

    return call


def _count(monkeypatch):
    """How often each function that launches a kernel is called."""
    counts = {}
    for module, name in KERNELS:
        counted = f"{module.__name__.rpartition('.')[2]}.{name}"
        counts[counted] = 0
        monkeypatch.setattr(module, name, _counting(getattr(module, name), counts, counted))
    return counts


def _training(adapter, total_steps=2):
    plan = make_plan(len(LENGTHS), micro_batch=2, global_batch=4, total_steps=total_steps)
    return build_training(tiny_llama(torch.float32), make_samples(LENGTHS), plan, adapter=adapter)


@pytest.fixture
def layouts():
    """Arguments of a forward pass of the whole model over two documents."""
    ids = torch.arange(3, 12)[None]
    positions = torch.cat([torch.arange(5), torch.arange(4)])[None]
    return {
        "input_ids": ids, "position_ids": positions, "layout": attention.DocumentLayout((5, 4)), "use_cache": False
    }  # fmt: skip


def test_the_summary_says_that_triton_runs():
    chosen = select.install(tiny_llama(torch.float32), adapter_name=None)
    assert chosen["triton"] == "norm, rotary, swiglu"
    assert chosen["norm"] == "fused function in 5 norms, 2 of them with the addition before"


def test_a_step_of_all_weights_goes_through_the_kernels(monkeypatch):
    training, counts = _training(None), _count(monkeypatch)
    run_steps(training, [0])
    # two micro-batches; of the five norms' calls, those of two layers have the addition in them
    assert counts == {
        "triton_norm.forward": 10, "triton_norm.backward": 10, "triton_rotary.turn": 8, "triton_swiglu.forward": 4,
        "triton_swiglu.backward": 4, "triton_swiglu.backward_into": 0,
    }  # fmt: skip


def test_a_step_with_an_adapter_goes_through_the_kernels(monkeypatch):
    training, counts = _training(LORA), _count(monkeypatch)
    run_steps(training, [0])
    assert counts["triton_swiglu.forward"] == counts["triton_swiglu.backward_into"] == 4
    # what the first norm reads comes from the frozen embedding
    assert counts["triton_norm.backward"] == 8 and counts["triton_rotary.turn"] == 8


@pytest.mark.parametrize("adapter", [None, LORA])
def test_two_steps_equal_those_of_torch(adapter, monkeypatch):
    ours = _training(adapter)
    losses = [record.loss for record in run_steps(ours)]
    monkeypatch.setenv("WHET_TRITON", "off")
    theirs = _training(adapter)
    assert "triton" not in theirs.kernels
    assert losses == pytest.approx([record.loss for record in run_steps(theirs)], rel=1e-6)
    assert distance(values(ours), values(theirs)) < 1e-5


def test_the_same_steps_twice_are_the_same_to_the_last_bit():
    runs = [_training(LORA) for _ in range(2)]
    losses = [[record.loss for record in run_steps(run)] for run in runs]
    assert losses[0] == losses[1] and torch.equal(*(values(run) for run in runs))


@pytest.mark.parametrize("level", ["norms", "mlp", "full"])
def test_what_is_computed_anew_gives_the_same_gradients(level, layouts):
    model = tiny_llama(torch.float32).train()
    results = []
    for each in ("none", level):
        select.install(model, adapter_name=None)
        recompute.install(model, each)
        model.zero_grad()
        loss = functional.cross_entropy(model(**layouts).logits[0], layouts["input_ids"][0])
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_hook_on_a_norm_is_not_passed_over_and_layers_change_back(layouts):
    model = tiny_llama(torch.float32)
    select.install(model, adapter_name=None)
    seen = []
    with model.model.layers[0].post_attention_layernorm.register_forward_hook(lambda *_: seen.append(1)):
        model(**layouts)
    assert seen == [1]
    select.uninstall(model)
    assert not any("forward" in vars(module) for module in model.modules())
