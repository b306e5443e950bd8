"""Starts of an adapter that look at training rows: EVA, CorDA and LoRA-GA.

    eva      A: the first R principal directions of the layer's inputs X, B: zero (arXiv:2410.07170). As in PEFT the
             inputs are centred. Every layer keeps its rank (rho = 1); all rows are seen, not until A hardly moves.
    corda    W C = U S V^T with C = X^T X: B A = U_R S_R V_R^T C^-1 / s, the root of S_R / s to each of the factors
             (arXiv:2406.05223, instruction-previewed). C is scaled and damped as PEFT does, whose own function needs
             the package attrs without asking for it.
    lora_ga  gradient of the loss G = U S V^T: A = c V_1..R^T, B = c U_R+1..2R with c = O^(1/4) / sqrt(gamma), gamma 16
             (arXiv:2407.05000, algorithm 1, and its authors' program). PEFT 0.21 leaves c out of A and multiplies B
             by S, which makes the start smaller with every gradient that is.

What is kept of a layer while the rows pass is as large as its weight in float32 (lora_ga), or 16 bytes times its inputs
squared (eva, corda: 13 GB for 28,672 inputs). Layers are looked at in groups that need up to 4 GiB together, with one
pass over the rows for each: one for a model of 135 million weights, about 7 for lora_ga on one of 8 billion and 64 for
the others, whose widest layers stand alone there. Measured with 64 rows of 150 tokens on SmolLM2-135M in float32, one
core of a CPU: eva 89 s, corda 75 s, lora_ga 103 s; at most 3.8 GiB in all.

Shape letters: T tokens, I inputs and O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import NonFiniteError, RecipeError
from whet.models.one_thread import one_thread_where_small
from whet.recipe.schema import Start

Losses = Callable[[], Iterable[Tensor]]
"""Each call sends the same training rows through the model and yields the summed loss of every forward pass."""
Factors = tuple[Tensor, Tensor]
"""A [R, I] and B [O, R]"""

LOOK_AT_ROWS: tuple[Start, ...] = ("eva", "corda", "lora_ga")

_GROUP_BYTES = 4 * 2**30
_GAMMA = 16
_DAMPING = 0.01
"""of C, relative to its mean diagonal; without it few rows leave C without an inverse"""
_NUM_ITERATIONS = 16
"""of the randomised singular value decomposition (Halko et al., arXiv:0909.4061)"""


class _Scatter:
    """Sum of (x - mean)(x - mean)^T over all tokens, joined pass by pass (Chan et al. 1979), in float64."""

    def __init__(self, num_inputs: int, device: torch.device) -> None:
        self.num_tokens = 0
        self.mean_I = torch.zeros(num_inputs, dtype=torch.float64, device=device)
        self.sum_II = torch.zeros(num_inputs, num_inputs, dtype=torch.float64, device=device)

    def add(self, x_TI: Tensor) -> None:
        mean_I = x_TI.mean(0)
        centred_TI = x_TI - mean_I
        step_I, total = mean_I.double() - self.mean_I, self.num_tokens + len(x_TI)
        self.sum_II += centred_TI.T @ centred_TI
        self.sum_II += torch.outer(step_I, step_I) * (self.num_tokens * len(x_TI) / total)
        self.mean_I += step_I * (len(x_TI) / total)
        self.num_tokens = total

    @cached_property
    def directions(self) -> Tensor:
        """[I, I]: principal directions in rows, the first explaining most; their largest number is positive."""
        with one_thread_where_small(self.sum_II):
            rows_II = torch.linalg.eigh(self.sum_II).eigenvectors.T.flip(0)
        return rows_II * rows_II.gather(1, rows_II.abs().argmax(1, keepdim=True)).sign()


class _Covariance:
    """CorDA's C as PEFT takes it: the inputs of each pass over their largest one, the mean of X^T X over the passes."""

    def __init__(self, num_inputs: int, device: torch.device) -> None:
        self.num_passes = 0
        self.sum_II = torch.zeros(num_inputs, num_inputs, dtype=torch.float64, device=device)

    def add(self, x_TI: Tensor) -> None:
        scaled_TI = x_TI / x_TI.max().abs()
        self.sum_II += scaled_TI.T @ scaled_TI
        self.num_passes += 1


def factors_from_rows(
    wrapped: Any, layers: Sequence[tuple[str, Any]], init: Start, adapter_name: str, losses: Losses
) -> Iterator[tuple[Any, Factors]]:
    """(layer, (A, B)) for every (name, PEFT LoRA layer) of the PEFT model `wrapped`, whose adapters stay off meanwhile.

    RecipeError where the rows have too few tokens, NonFiniteError where they have no finite activations or gradients.
    """
    methods: dict[Start, Callable[..., Factors]] = {"eva": _eva, "corda": _corda, "lora_ga": _lora_ga}
    for group in _groups(layers, init):
        with wrapped.disable_adapter():
            if init == "lora_ga":
                seen = _look_at_gradients(group, losses)
            else:
                seen = _look_at_inputs(group, _Scatter if init == "eva" else _Covariance, losses)
        for name, layer in group:
            yield layer, methods[init](name, layer, seen.pop(name), layer.r[adapter_name], layer.scaling[adapter_name])


def _groups(layers: Sequence[tuple[str, Any]], init: Start) -> Iterator[list[tuple[str, Any]]]:
    group: list[tuple[str, Any]] = []
    num_bytes = 0
    for name, layer in layers:
        # float32 gradients, or the sum and its directions in float64
        own = layer.in_features * (4 * layer.out_features if init == "lora_ga" else 16 * layer.in_features)
        if group and num_bytes + own > _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append((name, layer))
        num_bytes += own
    yield group


@torch.no_grad()
def _look_at_inputs(
    group: Sequence[tuple[str, Any]], make: Callable[[int, torch.device], Any], losses: Losses
) -> dict[str, Any]:
    """What `make` gathers of the inputs of every layer; one object for layers that read the same tensor (q, k, v)."""
    seen: dict[str, Any] = {}
    last: tuple[Tensor | None, str] = (None, "")

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            nonlocal last
            if args[0] is last[0]:
                seen[name] = seen[last[1]]
                return
            x_TI = args[0].reshape(-1, args[0].shape[-1])
            if name not in seen:
                seen[name] = make(x_TI.shape[1], x_TI.device)
            seen[name].add(x_TI.to(torch.promote_types(x_TI.dtype, torch.float32)))
            last = (args[0], name)

        return hook

    with ExitStack() as stack:
        for name, layer in group:
            stack.enter_context(layer.get_base_layer().register_forward_pre_hook(watch(name)))
        for _ in losses():
            pass
    return seen


def _look_at_gradients(group: Sequence[tuple[str, Any]], losses: Losses) -> dict[str, Tensor]:
    """[O, I] gradient of the summed loss of every base weight, added up in float32 or wider."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[Tensor], None]:
        def hook(weight_OI: Tensor) -> None:
            assert weight_OI.grad is not None
            grad_OI = weight_OI.grad.to(torch.promote_types(weight_OI.dtype, torch.float32))
            seen[name] = seen[name] + grad_OI if name in seen else grad_OI
            weight_OI.grad = None

        return hook

    weights = [(name, layer.get_base_layer().weight) for name, layer in group]
    with ExitStack() as stack, torch.enable_grad():
        for name, weight_OI in weights:
            stack.callback(weight_OI.requires_grad_, False)
            stack.enter_context(weight_OI.requires_grad_(True).register_post_accumulate_grad_hook(watch(name)))
        for loss in losses():
            loss.backward()
    return seen


def _eva(name: str, layer: Any, seen: _Scatter, rank: int, _scale: float) -> Factors:
    _check_finite(name, seen.sum_II, "inputs")
    if seen.num_tokens <= rank:
        raise RecipeError(
            f"adapter.init eva needs more tokens than adapter.rank {rank}; the first rows have {seen.num_tokens}",
            mend="give more rows or choose a smaller rank",
        )
    return seen.directions[:rank], torch.zeros(layer.out_features, rank)


def _corda(name: str, layer: Any, seen: _Covariance, rank: int, scale: float) -> Factors:
    _check_finite(name, seen.sum_II, "inputs")
    weight_OI = layer.get_base_layer().weight.detach()
    weight_OI = weight_OI.to(torch.promote_types(weight_OI.dtype, torch.float32))
    c_II = seen.sum_II / seen.num_passes
    c_II.diagonal().add_(_DAMPING * c_II.diagonal().mean())
    with one_thread_where_small(weight_OI):
        u_OK, s_K, vt_KI = torch.linalg.svd(weight_OI @ c_II.to(weight_OI.dtype), full_matrices=False)
        a_RI = torch.linalg.solve(c_II, vt_KI[:rank].T.double()).T
    roots_R = (s_K[:rank] / scale).sqrt()
    return roots_R[:, None] * a_RI, u_OK[:, :rank] * roots_R


def _lora_ga(name: str, _layer: Any, grad_OI: Tensor, rank: int, _scale: float) -> Factors:
    _check_finite(name, grad_OI, "gradient")
    num_found = min(4 * rank, *grad_OI.shape)
    with one_thread_where_small(grad_OI):
        u_OK, _, v_IK = torch.svd_lowrank(grad_OI, q=num_found, niter=_NUM_ITERATIONS)
    length = grad_OI.shape[0] ** 0.25 / _GAMMA**0.5
    return length * v_IK[:, :rank].T, length * u_OK[:, rank : 2 * rank]


def _check_finite(name: str, gathered: Tensor, what: str) -> None:
    if not (gathered.isfinite().all() and gathered.any()):
        raise NonFiniteError(
            f"over the first training rows the {what} of {name} are all zero or not finite",
            mend="look at these rows, or start with adapter.init default",
        )
