"""all-MiniLM-L6-v2 through transformers alone: text -> unit vector of 384 numbers.

BERT's last hidden states, averaged over the word pieces of the text and divided by their length (Reimers and Gurevych,
arXiv:1908.10084, section 3, MEAN). The model reads 256 word pieces, [CLS] and [SEP] among them; what stands behind them
is cut off and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertModel

MAX_WORD_PIECES = 256
BATCH_TEXTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceEncoder:
    """A loaded encoder. Invariant: a text's vector does not depend on the texts it is embedded with."""

    tokenizer: Tokenizer
    model: BertModel

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors [num_texts, width] in float32, and which texts were cut, bool [num_texts]."""
        import torch

        encodings = self.tokenizer.encode_batch(list(texts))
        was_cut = np.array([bool(encoding.overflowing) for encoding in encodings], dtype=bool)
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        # by length, so that a batch holds little padding
        order = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))
        for start in range(0, len(order), BATCH_TEXTS):
            indices = order[start : start + BATCH_TEXTS]
            longest = max(len(encodings[index].ids) for index in indices)
            ids_BT = torch.zeros((len(indices), longest), dtype=torch.long)
            mask_BT = torch.zeros_like(ids_BT)
            for row, index in enumerate(indices):
                ids = torch.tensor(encodings[index].ids)
                ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = ids, 1
            with torch.inference_mode():
                device = self.model.device
                states_BTH = self.model(ids_BT.to(device), attention_mask=mask_BT.to(device)).last_hidden_state
                weights_BT1 = mask_BT.to(device).unsqueeze(-1).float()
                mean_BH = (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)
                vectors[indices] = torch.nn.functional.normalize(mean_BH, dim=1).cpu().numpy()
        return vectors, was_cut


def load_encoder(folder: Path, *, device: str = "cpu") -> SentenceEncoder:
    """The encoder of a folder in Hugging Face format (config.json, model.safetensors, tokenizer.json), in float32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_WORD_PIECES)
    model = BertModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return SentenceEncoder(tokenizer=tokenizer, model=model.eval().to(torch.device(device)))
