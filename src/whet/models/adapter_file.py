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
    start: str | None = None
    """PEFT's name of the frozen adapter (A0, -B0); None for a layer without"""

    @property
    def factors(self) -> tuple[str, str]:
        """Names of A and B."""
        return f"{self.name}.lora_A.weight", f"{self.name}.lora_B.weight"

    @property
    def start_factors(self) -> tuple[str, str] | None:
        """Names of A0 and -B0."""
        return (
            (f"{self.name}.lora_A.{self.start}.weight", f"{self.name}.lora_B.{self.start}.weight")
            if self.start
            else None
        )

    @property
    def file_rank(self) -> int:
        return self.rank * (2 if self.start else 1)


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
        odd = [layer for layer in self.layers if math.frexp(self._ratio(layer))[0] != 0.5]
        return [names[1] for layer in odd for names in (layer.factors, layer.start_factors) if names]

    @torch.no_grad()
    def to_file(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the file, from the live ones by name."""
        tensors = dict(values)
        for layer in self.layers:
            ratio, num_zeros = self._ratio(layer), self.rank - layer.file_rank
            a, b = layer.factors
            if layer.start_factors:
                start_a, start_b = layer.start_factors
                tensors[a] = torch.cat([tensors[a], tensors.pop(start_a)])
                tensors[b] = torch.cat([tensors[b], tensors.pop(start_b)], dim=1)
            if num_zeros:
                tensors[a] = pad(tensors[a], (0, 0, 0, num_zeros))
                tensors[b] = pad(tensors[b], (0, num_zeros))
            if ratio != 1.0:
                tensors[b] = tensors[b] * ratio
        return tensors

    @torch.no_grad()
    def from_file(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The live tensors out of those of a file; StorageError where a factor has another rank."""
        values = dict(tensors)
        for layer in self.layers:
            a, b = layer.factors
            for name, ranks in ((a, tensors[a].shape[:-1]), (b, tensors[b].shape[1:])):
                if tuple(ranks) != (self.rank,):
                    raise StorageError(
                        f"saved {name} has shape {tuple(tensors[name].shape)}, but the rank is {self.rank}"
                    )
            ratio, rank = self._ratio(layer), layer.rank
            values[a], values[b] = tensors[a][:rank], tensors[b][:, :rank] / ratio
            if layer.start_factors:
                start_a, start_b = layer.start_factors
                values[start_a], values[start_b] = tensors[a][rank : 2 * rank], tensors[b][:, rank : 2 * rank] / ratio
        return values

    def _ratio(self, layer: LayerForm) -> float:
        # alpha was rounded, so equal scales may differ in their last bits
        ratio = layer.scale / self.scale
        return 1.0 if math.isclose(ratio, 1.0, rel_tol=1e-9) else ratio


def choose_form(layers: Sequence[LayerForm]) -> FileForm:
    """The smallest rank that holds every layer, at the scale of the first."""
    rank = max(layer.file_rank for layer in layers)
    # 12 decimals take back what alpha / r * r lost: 1 / 49 * 49 is not 1
    return FileForm(rank=rank, alpha=round(layers[0].scale * rank, 12), layers=tuple(layers))
