"""What one training step with LoRA costs, by torch's own counters and without a clock: bytes kept, FLOPs, operators.

The bounds are formulas over the shape of the model, so that a fusion which silently stops working breaks them. Tests
that switch a fusion off and see its bound broken say what each bound is good for.

Letters: T tokens, L layers, E hidden size, Q and P entries of all query and key heads, H query heads, D head size,
F channels of the feed-forward layer, R rank, N taught tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tiny import build_training, make_plan, make_samples, tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from whet.data.packing import pack
from whet.kernels import recompute, select
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter

LENGTHS = (100, 90, 70)
R = 4
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"}
NO_PASS = {"empty", "empty_like", "new_empty", "new_empty_strided", "detach", "lift_fresh", "_unsafe_view", "alias"}
"""what gives a new tensor without writing it"""
EVERYTHING = select.SWITCHES


@dataclass(frozen=True)
class Cost:
    kept_bytes: int
    flops: int
    num_products: int
    num_passes: int
    """operators other than products that write at least [T, E] numbers"""


class _Operators(TorchDispatchMode):
    """Counts operators by name, and those that write at least `num_large` numbers."""

    def __init__(self, num_large: int) -> None:
        super().__init__()
        self.num_large, self.all, self.large = num_large, Counter(), Counter()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) and out else out
        self.all[function.overloadpacket.__name__] += 1
        if isinstance(first, torch.Tensor) and first.numel() >= self.num_large and not function.is_view:
            self.large[function.overloadpacket.__name__] += 1
        return out


def _product_flops(_shape, left, right, *, out_shape=None, **_settings) -> int:
    """Of `_shape` + left @ right."""
    return 2 * math.prod(left) * right[-1]


def cost_of(
    off: frozenset[str] = frozenset(), *, dropout: float = 0.0, dtype: torch.dtype = torch.bfloat16, level="none"
) -> Cost:
    """One step of the tiny Llama over one micro-batch of three rows."""
    model, samples = tiny_llama(dtype), make_samples(LENGTHS)
    plan = make_plan(len(samples), micro_batch=len(samples), global_batch=len(samples))
    run = build_training(model, samples, plan, adapter=Adapter(rank=R, alpha=8.0, dropout=dropout))
    if off:
        select.install(model, adapter_name=ADAPTER_NAME, off=off)
    recompute.install(model, level)
    model.train()
    batch = pack(samples)
    resident = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in resident:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    in_place = dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), _product_flops)
    flops = FlopCounterMode(display=False, custom_mapping=in_place)
    operators = _Operators(sum(LENGTHS) * model.config.hidden_size)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with run.dropout.micro_batch(0, batch), flops, operators, hooks:
        run.loss_model.nll_sum(batch).backward()
    return Cost(
        kept_bytes=sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
        flops=flops.get_total_flops(),
        num_products=sum(operators.all[name] for name in PRODUCTS),
        num_passes=sum(n for name, n in operators.large.items() if name not in PRODUCTS | NO_PASS),
    )


@pytest.fixture(scope="module")
def s() -> SimpleNamespace:
    """The shape of the tiny model and of its rows."""
    c = tiny_llama().config
    return SimpleNamespace(
        T=sum(LENGTHS), L=c.num_hidden_layers, E=c.hidden_size, H=c.num_attention_heads, D=c.head_dim,
        Q=c.num_attention_heads * c.head_dim, P=c.num_key_value_heads * c.head_dim, F=c.intermediate_size,
        N=sum(sample.num_taught for sample in make_samples(LENGTHS)), V=c.vocab_size, pairs=sum(n * n for n in LENGTHS),
    )  # fmt: skip


def kept_bound(s: SimpleNamespace, num_bytes: int) -> int:
    """Bytes that a step may keep for its backward pass.

    Per token and layer: inputs and outputs of both norms (4 E), what attention reads and writes (2 Q + 2 P), gate and
    up (2 F), the adapters' narrow products (7 R), and a float32 number for each norm. Per layer: attention
    probabilities. The first norm of all is not differentiated, the last one after the layers is; then there are the
    gradient of the taught hidden states, the angles of all positions and the numbers of taught positions.
    """
    per_layer = s.T * ((4 * s.E + 2 * s.Q + 2 * s.P + 2 * s.F + 7 * R) * num_bytes + 2 * 4) + s.H * s.pairs * num_bytes
    return s.L * per_layer + s.N * s.E * num_bytes + 2 * s.T * s.D * num_bytes + 8 * s.N


def flops_bound(s: SimpleNamespace) -> int:
    """FLOPs that the products of a step may take.

    A frozen weight is used twice, forward and for the gradient of its input, which the first layer's q, k and v do not
    need; an adapter takes six narrow products, as wide as all that share their input where those are done as one with
    zeros in it; attention takes two products forward and four backward; the frozen head two.
    """
    qkv, o, inner, down = s.E * (s.Q + 2 * s.P), s.Q * s.E, 2 * s.E * s.F, s.F * s.E
    base = 2 * (2 * s.L * (qkv + o + inner + down) - qkv)
    layers = ((s.E, s.Q + 2 * s.P, 3), (s.Q, s.E, 1), (s.E, 2 * s.F, 2), (s.F, s.E, 1))
    narrow = s.L * 2 * R * sum(3 * count * num_in + 3 * count * num_out for num_in, num_out, count in layers)
    attention = s.L * 6 * 2 * s.pairs * s.Q
    return s.T * (base + narrow) + attention + 2 * 2 * s.N * s.E * s.V


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_keeps_no_more_than_what_the_functions_need(s, dtype, dropout):
    """Masks are made again: dropout keeps nothing."""
    assert cost_of(dropout=dropout, dtype=dtype).kept_bytes <= kept_bound(s, dtype.itemsize)


def test_a_step_computes_no_more_than_the_products_that_lora_needs(s):
    cost = cost_of()
    assert cost.flops <= flops_bound(s)
    # or the counter has missed products
    assert cost.flops >= 0.9 * flops_bound(s)


def products_bound(s: SimpleNamespace) -> int:
    """Products of a step without dropout.

    Forward each layer has 7 with frozen weights, 4 with A (q, k and v in one, gate and up in one) and 7 with B;
    backward 7 with frozen weights, 7 with B, 7 for dB, and 4 each for dA and what the narrow gradients add to dx; the
    first layer's q, k and v give no dx. Attention has two forward and four backward for each row; the head two.
    """
    return s.L * (18 + 29) - 4 + 6 * s.L * len(LENGTHS) + 2


def passes_bound(s: SimpleNamespace) -> int:
    """Operators besides products that may write [T, E] or more, without dropout.

    Per layer 30: two norms (4 forward, 2 backward each, and what adds up their gradients), two residual sums, rotary
    embedding (2 large of queries), SwiGLU (2 forward, 4 backward), numbers narrowed for products; per layer and row 5:
    scores widened, softmax, its gradient, copies; once 10: embedding, last norm, head.
    """
    return s.L * (30 + 5 * len(LENGTHS)) + 10


def test_a_step_takes_no_more_products_than_the_fused_functions_do(s):
    assert cost_of().num_products <= products_bound(s)


def test_a_step_passes_over_memory_no_more_often_than_the_fused_functions_do(s):
    assert cost_of().num_passes <= passes_bound(s)


@pytest.mark.parametrize(
    ("off", "counted", "bound"),
    [
        ({"mlp"}, "kept_bytes", lambda s: kept_bound(s, 2)),
        ({"norm"}, "kept_bytes", lambda s: kept_bound(s, 2)),
        ({"adapter"}, "kept_bytes", lambda s: kept_bound(s, 2)),
        ({"qkv"}, "num_products", products_bound),
        ({"rotary"}, "num_passes", passes_bound),
        ({"norm"}, "num_passes", passes_bound),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, set) else None,
)
def test_each_bound_is_broken_when_a_fusion_stops_working(s, off, counted, bound):
    assert getattr(cost_of(frozenset(off)), counted) > bound(s)


def test_fused_functions_keep_half_and_pass_over_memory_half_as_often_as_the_modules(s):
    fused, modules = cost_of(), cost_of(EVERYTHING)
    assert fused.kept_bytes < 0.55 * modules.kept_bytes
    assert fused.num_passes < 0.55 * modules.num_passes


@pytest.mark.parametrize("level", ["norms", "mlp", "full"])
def test_recomputing_keeps_what_it_says(s, level):
    """Per token and layer: without outputs of norms; without the feed-forward part; the layer's input alone."""
    attention = 2 * s.Q + 2 * s.P
    numbers = {"norms": 2 * s.E + attention + 2 * s.F + 7 * R, "mlp": 2 * s.E + attention + 4 * R, "full": s.E}[level]
    probabilities = 0 if level == "full" else s.H * s.pairs
    once = s.N * s.E + s.T * s.E + 2 * s.T * s.D
    bound = 2 * (s.L * (s.T * numbers + probabilities) + once) + s.T + 2 * 4 * s.T * s.L
    assert cost_of(level=level).kept_bytes <= bound
