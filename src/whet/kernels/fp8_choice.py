"""Which linear layers a float8 base keeps as they are: those whose rounding would cost the loss too much.

Rounding a layer's weight and its input adds d to its output. To first order the loss of the tokens then changes by
<g, d>, g being the gradient of the loss in that output. Over many tokens the changes cancel in the mean, and what they
cost is half their mean square: the Fisher information, measured on rows of the training set, stands for the curvature
(as in Zandonati et al., FIT: A Metric for Model Sensitivity, arXiv:2210.08502, where it weighs the noise of quantized
weights). One forward and one backward pass give the costs of all layers, and costs of independent noise add up.

Shape letters: N rows, T tokens, I inputs, O outputs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whet.kernels import fp8
from whet.types import TokenizedSample

NUM_ROWS = 16
LONGEST_ROW = 256
"""tokens of a row that are looked at"""
BUDGET = 0.005
"""of the loss: what all rounded layers together may cost, as foreseen"""
_ROWS_AT_ONCE = 4
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""layers of one function: all of them are rounded or none is"""


@dataclass(frozen=True, slots=True)
class Costs:
    """What rounding each layer alone costs."""

    loss: float
    """of the rows as they are, nats per taught token"""
    by_layer: Mapping[str, float]
    """expected increase of that loss"""


def linear_names(model: nn.Module) -> list[str]:
    """The linear layers inside the backbone, in order."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]


def rounding_costs(model: nn.Module, samples: Sequence[TokenizedSample]) -> Costs:
    """Of a transformers model as it was loaded, on the first rows of `samples`, on the model's device."""
    names = linear_names(model)
    sums = dict.fromkeys(names, 0.0)
    nll, num_taught, was_training = 0.0, 0, model.training
    # a model in float8 is frozen anyway; gradients flow from the embedded tokens alone
    model.eval().requires_grad_(False)
    handles = [model.get_submodule(name).register_forward_hook(partial(_note, sums, name)) for name in names]
    try:
        rows = [samples[n] for n in range(min(NUM_ROWS, len(samples)))]
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            nll_sum, count = _forward(model, rows[first : first + _ROWS_AT_ONCE])
            nll_sum.backward()
            nll += nll_sum.item()
            num_taught += count
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return Costs(nll / max(1, num_taught), {name: value / max(1, num_taught) for name, value in sums.items()})


def choose_kept(costs: Costs, sizes: Mapping[str, int], *, budget: float = BUDGET) -> tuple[str, ...]:
    """Names of the layers that are not rounded. What costs least for each weight is rounded first, up to the budget.

    `sizes`: weights of each layer.
    """
    units: dict[tuple[str, ...], list[str]] = {}
    for name in costs.by_layer:
        units.setdefault(_unit(name), []).append(name)
    cost_of = {unit: sum(costs.by_layer[name] for name in names) for unit, names in units.items()}
    size_of = {unit: sum(sizes[name] for name in names) for unit, names in units.items()}
    kept: list[str] = []
    spent = 0.0
    for unit in sorted(units, key=lambda unit: cost_of[unit] / size_of[unit]):
        if not kept and spent + cost_of[unit] <= budget * costs.loss:
            spent += cost_of[unit]
        else:
            kept += units[unit]
    return tuple(sorted(kept))


def _unit(name: str) -> tuple[str, ...]:
    parent, _, last = name.rpartition(".")
    return parent, *next((group for group in _TOGETHER if last in group), (last,))


def _forward(model: nn.Module, rows: Sequence[TokenizedSample]) -> tuple[Tensor, int]:
    """Summed loss of the taught tokens, and their number. Rows are filled up on the right, which none of them sees."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    device = embeddings.weight.device
    length = min(LONGEST_ROW, max(len(row.ids) for row in rows))
    ids_NT = torch.zeros(len(rows), length, dtype=torch.int64)
    taught_NT = torch.zeros(len(rows), length, dtype=torch.bool)
    for n, row in enumerate(rows):
        num = min(length, len(row.ids))
        ids_NT[n, :num] = torch.from_numpy(row.ids[:num].astype("int64"))
        taught_NT[n, :num] = torch.from_numpy(row.taught[:num].astype("bool"))
    ids_NT, is_target_NT = ids_NT.to(device), taught_NT[:, 1:].to(device)
    with torch.enable_grad():
        embedded_NTI = embeddings(ids_NT).requires_grad_()
        logits_NTV = model(inputs_embeds=embedded_NTI, use_cache=False).logits[:, :-1]
        targets = ids_NT[:, 1:][is_target_NT]
        nll_sum = nn.functional.cross_entropy(logits_NTV[is_target_NT].float(), targets, reduction="sum")
    return nll_sum, len(targets)


def _note(sums: dict[str, float], name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Once the gradient of this output is there, add what its noise costs."""
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        x_TI = inputs[0].detach().flatten(0, -2)
        rounded_OI = fp8.round_rows(layer.weight)
        # of two small differences, so that the noise is not lost in the rounding of the products
        d_TO = nn.functional.linear(fp8.round_rows(x_TI) - x_TI, rounded_OI)
        d_TO += nn.functional.linear(x_TI, rounded_OI - layer.weight)

    def add(grad: Tensor) -> None:
        change_T = (grad.flatten(0, -2).float() * d_TO.float()).sum(dim=1)
        sums[name] += 0.5 * change_T.square().sum().item()

    output.register_hook(add)
