"""The form of an adapter in its file: plain LoRA of one rank and one alpha, whatever was trained.

PEFT, vLLM, SGLang, llama.cpp and W + (alpha / r) B A by hand agree on such a file alone. Live and in the file:

    A, B with scale s                     A, B; alpha = s r (so also the root of rsLoRA's scale is in alpha)
    start (A0, B0) taken off again        [A; A0], [B, -B0] of rank 2r: its product is B A - B0 A0
    layers of several ranks               padded with zeros to the largest; another scale goes into B

Nothing is rounded but a B whose scale differs from the file's by other than a power of two; `FileForm.rounded` names
those factors, and a checkpoint keeps them beside the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from whet.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerForm:
    """One adapted layer as it trains."""

    name: str
    """as in the file, without `.lora_A.weight`"""
    rank: int
    scale: float
    """what B A is multiplied by"""
    has_start: bool

    @property
    def a(self) -> str:
        return f"{self.name}.lora_A.weight"

    @property
    def b(self) -> str:
        return f"{self.name}.lora_B.weight"

    @property
    def file_rank(self) -> int:
        return self.rank * (2 if self.has_start else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """Rank and alpha of the file, and the layers in it."""

    rank: int
    alpha: float
    layers: tuple[LayerForm, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def rounded(self) -> list[str]:
        """Names of the B factors that the file holds only up to rounding."""
        return [layer.b for layer in self.layers if math.frexp(self._ratio(layer))[0] != 0.5]

    @torch.no_grad()
    def to_file(self, trained: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the file. `starts` holds A0 and -B0 under the names of A and B."""
        tensors = dict(trained)
        for layer in self.layers:
            if layer.file_rank == self.rank and not layer.has_start and self._ratio(layer) == 1.0:
                continue
            down, up = [trained[layer.a]], [trained[layer.b]]
            if layer.has_start:
                down.append(starts[layer.a])
                up.append(starts[layer.b])
            num_zeros = self.rank - layer.file_rank
            tensors[layer.a] = pad(torch.cat(down), (0, 0, 0, num_zeros))
            tensors[layer.b] = pad(torch.cat(up, dim=1) * self._ratio(layer), (0, num_zeros))
        return tensors

    def from_file(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(trained, starts) out of a file of this form; StorageError where a factor has another rank."""
        trained, starts = dict(tensors), dict[str, Tensor]()
        for layer in self.layers:
            down, up = tensors[layer.a], tensors[layer.b]
            for name, shape, ranks in ((layer.a, down.shape, down.shape[:-1]), (layer.b, up.shape, up.shape[1:])):
                if tuple(ranks) != (self.rank,):
                    raise StorageError(f"saved {name} has shape {tuple(shape)}, but the rank is {self.rank}")
            ratio, rank = self._ratio(layer), layer.rank
            trained[layer.a], trained[layer.b] = down[:rank], up[:, :rank] / ratio
            if layer.has_start:
                starts[layer.a], starts[layer.b] = down[rank : 2 * rank], up[:, rank : 2 * rank] / ratio
        return trained, starts

    def _ratio(self, layer: LayerForm) -> float:
        # alpha was rounded, so equal scales may differ in their last bits
        ratio = layer.scale / self.scale
        return 1.0 if math.isclose(ratio, 1.0, rel_tol=1e-9) else ratio


def choose_form(layers: Sequence[LayerForm]) -> FileForm:
    """The smallest rank that holds every layer, at the scale of the first."""
    rank = max(layer.file_rank for layer in layers)
    # 12 decimals take back what alpha / r * r lost: 1 / 49 * 49 is not 1
    return FileForm(rank=rank, alpha=round(layers[0].scale * rank, 12), layers=tuple(layers))
