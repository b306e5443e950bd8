"""Where in a model the first number appears that is not finite: watched by hooks in one forward and backward pass.

Forward: the first module whose output is not finite although its input was; or, where a module is handed something
that is not, the module around it, which made it between its parts. Backward, which goes the other way: the module
whose output's gradient was finite and whose input's is not; or the one that owns the first parameter with a gradient
that is not.

Hooked modules compute by themselves what fused functions compute otherwise, with the same dropout masks; so a place is
where such a pass goes wrong, which is where the fused one did up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

HEAD = "lm_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The first offending module."""

    phase: Literal["forward", "backward"]
    module: str
    """by its name in the model"""
    detail: str
    """what of it was not finite"""
    dtype: str
    input_peak: float | None
    """largest magnitude of what came into it: of its input, or backward of its output's gradient; None: no floats"""

    def sentence(self) -> str:
        came = "its input" if self.phase == "forward" else "the gradient that came to it"
        peak = f"at most {self.input_peak:.3g}" if self.input_peak is not None else "no floats"
        return f"first in the {self.phase} pass: {self.module}, {self.detail} ({self.dtype}; {came}: {peak})"


@dataclass(slots=True)
class _Frame:
    name: str
    dtype: str
    input_peak: float | None


@dataclass(slots=True)
class _Seen:
    """A tensor on its way, and the modules that it comes out of or goes into."""

    tensor: Tensor
    made_by: list[str] = field(default_factory=list)
    read_by: list[str] = field(default_factory=list)


class Watch:
    """A context around one forward and backward pass of `model`; `place` is what it found, None: all was finite."""

    def __init__(self, model: nn.Module) -> None:
        self.place: Place | None = None
        self._names = {module: _plain(name) for name, module in model.named_modules() if name}
        trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
        self._owners: dict[Tensor, str] = {p: _plain(name.rpartition(".")[0]) for name, p in trained}
        self._handles: list[RemovableHandle] = []
        self._frames: list[_Frame] = []
        self._seen: dict[int, _Seen] = {}
        self._last: _Frame | None = None
        self._gradient_peaks: dict[str, float] = {}
        self._is_forward = True

    def __enter__(self) -> Watch:
        for module, name in self._names.items():
            self._handles.append(module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(partial(self._leave, name), always_call=False))
        for parameter in self._owners:
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._parameter))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def forward_is_over(self, loss: Tensor) -> None:
        """What runs from now on is the backward pass, which may call modules again."""
        self._is_forward = False
        if self.place is None and not math.isfinite(float(loss.detach())):
            peak = self._last.input_peak if self._last is not None else None
            dtype = self._last.dtype if self._last is not None else _name(loss.dtype)
            self._found("forward", HEAD, "the loss of its logits", dtype, peak)

    def backward_is_over(self) -> None:
        """Gradients may be finite each and their norm not: the largest of them is blamed then."""
        if self.place is not None:
            return
        peaks = {p: _peak([own_part(p.grad)]) for p in self._owners if p.grad is not None}
        largest = max(peaks, key=lambda p: _rank(peaks[p]), default=None)
        if largest is not None:
            grad = largest.grad
            assert grad is not None
            self._blame_parameter(largest, grad, f"a gradient of up to {peaks[largest]:.3g}")

    def _enter(self, name: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_forward:
            return
        tensors = list(_floats((args, {k: v for k, v in kwargs.items() if k != "attention_mask"})))
        frame = _Frame(name, _dtype_of(tensors), _peak(tensors))
        if self.place is None and _is_broken(frame.input_peak):
            around = self._frames[-1] if self._frames else frame
            detail = f"between its parts, before {name.rpartition('.')[2]}"
            self._found("forward", around.name, detail, frame.dtype, around.input_peak)
        self._frames.append(frame)
        for tensor in tensors:
            self._follow(tensor).read_by.append(name)

    def _leave(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if not self._is_forward:
            return
        frame = self._frames.pop()
        tensors = list(_floats(output))
        peak = _peak(tensors)
        if self.place is None and _is_broken(peak):
            self._found("forward", name, "its output", _dtype_of(tensors), frame.input_peak)
        self._last = _Frame(name, _dtype_of(tensors), peak)
        for tensor in tensors:
            self._follow(tensor).made_by.append(name)

    def _follow(self, tensor: Tensor) -> _Seen:
        seen = self._seen.get(id(tensor))
        if seen is None:
            # kept, so that no other tensor can have its id
            seen = self._seen[id(tensor)] = _Seen(tensor)
            if tensor.requires_grad:
                self._handles.append(tensor.register_hook(partial(self._gradient, seen)))
        return seen

    def _gradient(self, seen: _Seen, gradient: Tensor) -> None:
        peak = _peak([own_part(gradient)])
        if self.place is not None:
            return
        if not _is_broken(peak):
            self._gradient_peaks |= dict.fromkeys(seen.made_by, peak or 0.0)
            return
        dtype = _name(gradient.dtype)
        innermost = max((name.count(".") for name in seen.read_by), default=0)
        readers = [name for name in seen.read_by if name.count(".") == innermost]
        if readers:
            peak = max((self._gradient_peaks[name] for name in readers if name in self._gradient_peaks), default=None)
            self._found("backward", _joined(readers), "the gradient of its input", dtype, peak)
        elif seen.made_by:
            maker = seen.made_by[0]
            around, _, part = maker.rpartition(".")
            detail = f"the gradient between its parts, behind {part}"
            self._found("backward", around or maker, detail, dtype, self._gradient_peaks.get(around))

    def _parameter(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if self.place is None and gradient is not None and _is_broken(_peak([own_part(gradient)])):
            self._blame_parameter(parameter, gradient, "the gradient of its weight")

    def _blame_parameter(self, parameter: Tensor, gradient: Tensor, detail: str) -> None:
        owner = self._owners[parameter]
        self._found("backward", owner, detail, _name(gradient.dtype), self._gradient_peaks.get(owner))

    def _found(
        self, phase: Literal["forward", "backward"], module: str, detail: str, dtype: str, peak: float | None
    ) -> None:  # fmt: skip
        self.place = Place(phase=phase, module=module, detail=detail, dtype=dtype, input_peak=peak)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor in parts; another one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def broken_names(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of those that hold a NaN or an infinity; of a tensor in parts, this rank's part is looked at."""
    return [name for name, tensor in tensors if _is_broken(_peak([own_part(tensor)]))]


def _joined(names: Sequence[str]) -> str:
    """`model.layers.0.self_attn (q_proj, k_proj)` of modules that cannot be told apart."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    num_same = next(i for i, at in enumerate(zip(*parts, strict=False)) if len(set(at)) > 1)
    around = ".".join(parts[0][:num_same])
    return f"{around} ({', '.join(dict.fromkeys('.'.join(each[num_same:]) for each in parts))})"


def _plain(name: str) -> str:
    """Without what sharding, compiling and PEFT put into a name."""
    skipped = ("_orig_mod", "default")
    return ".".join(part for part in name.split(".") if part not in skipped)


def _floats(value: Any) -> Iterator[Tensor]:
    """The tensors of numbers with a point in what a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _floats(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _floats(each)


@torch.no_grad()
def _peak(tensors: Iterable[Tensor]) -> float | None:
    """The largest magnitude, NaN where there is one; None without numbers. Of 8-bit formats nothing is asked."""
    peaks = [
        float(torch.linalg.vector_norm(t.detach(), ord=math.inf))
        for t in tensors
        if t.numel() and t.is_floating_point() and t.dtype.itemsize > 1
    ]
    return next((p for p in peaks if math.isnan(p)), max(peaks)) if peaks else None


def _is_broken(peak: float | None) -> bool:
    return peak is not None and not math.isfinite(peak)


def _rank(peak: float | None) -> float:
    return -1.0 if peak is None else peak


def _dtype_of(tensors: list[Tensor]) -> str:
    return _name(tensors[0].dtype) if tensors else "no floats"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
