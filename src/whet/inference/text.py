"""Token ids -> text, as people and judges read it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.inference.growing_text import Decode


def answer_decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Text of answer tokens without control tokens. Spaces stay as they were written: tokenizers of Llama 3 would
    otherwise turn ` .` into `.`."""

    def decode(ids: Sequence[int]) -> str:
        text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    return decode


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of a prompt with its control tokens, exactly as the model reads it."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
