"""Loss of one micro-batch: hidden states of all tokens, head and cross-entropy on taught positions only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from whet.kernels.attention import DocumentLayout
from whet.kernels.loss_head import linear_nll_sum, nll_and_correct, share_of
from whet.kernels.loss_head_libraries import LossHead
from whet.types import PackedBatch


class LossModel(nn.Module):
    """A causal language model cut in two: the backbone that makes hidden states, and its output head.

    A module, because what is shared out over ranks is gathered where a module is called.
    """

    def __init__(
        self, *, backbone: nn.Module, head: nn.Linear, compute_dtype: torch.dtype, uses_autocast: bool,
        loss_head: LossHead = "chunked",
    ) -> None:  # fmt: skip
        """`uses_autocast`: trained float32 weights with products in `compute_dtype` (full fine-tuning in bfloat16);
        `loss_head`: whose head and cross-entropy training uses."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.compute_dtype = compute_dtype
        self.uses_autocast = uses_autocast
        self.loss_head: LossHead = loss_head

    def precision(self, device_type: str) -> AbstractContextManager[object]:
        """Number format of the forward pass, in training, in evaluation and for answers in between."""
        return torch.autocast(device_type, self.compute_dtype) if self.uses_autocast else nullcontext()

    def hidden(self, batch: PackedBatch) -> Tensor:
        """[T, E] hidden states after the last norm."""
        with self.precision(batch.ids_T.device.type):
            out = self.backbone(
                input_ids=batch.ids_T[None],
                position_ids=batch.positions_T[None],
                attention_mask=None,
                use_cache=False,
                layout=DocumentLayout(batch.lengths, batch.shared_prefix, batch.offsets_D),
            )
        hidden_TE: Tensor = out.last_hidden_state[0]
        return hidden_TE

    def nll_sum(self, batch: PackedBatch) -> Tensor:
        """Summed negative log-likelihood (nats) over taught tokens; divides nothing.

        The caller divides once by the taught tokens of the whole step, so the gradient does not depend on how
        the step was cut into micro-batches or spread over ranks.
        """
        hidden_NE = self.hidden(batch).index_select(0, batch.taught_N)
        labels_N = batch.labels_T.index_select(0, batch.taught_N)
        return linear_nll_sum(
            hidden_NE, self.head.weight, labels_N, dtype=self.compute_dtype,
            # libraries divide by the number of rows, and a pass that only fills a turn has none
            kind=self.loss_head if len(labels_N) else "chunked",
            share=share_of(self.head),
        )  # fmt: skip

    @torch.no_grad()
    def evaluate(self, batch: PackedBatch) -> tuple[float, int, int]:
        """(summed nll in nats, taught tokens, taught tokens predicted right)."""
        hidden_NE, labels_N = (x_T.index_select(0, batch.taught_N) for x_T in (self.hidden(batch), batch.labels_T))
        nll_N, correct_N = nll_and_correct(
            hidden_NE, self.head.weight, labels_N, dtype=self.compute_dtype, share=share_of(self.head)
        )
        return float(nll_N.sum()), len(labels_N), int(correct_N.sum())
