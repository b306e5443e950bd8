"""What ranks that share layers refuse, with what would work."""

import pytest
import torch
from tiny import tiny_llama
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from whet.errors import RecipeError
from whet.parallel.tensor_limits import refuse_model

SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1}


def _llama(heads, kv_heads, *, vocab_size=48, **settings):
    config = LlamaConfig(
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocab_size, **SIZES, **settings
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "mend"),
    [
        (12, 6, 4, "parallel.tensor=3 or parallel.tensor=6"),
        (12, 4, 8, "parallel.tensor=4"),
        (12, 12, 5, "parallel.tensor=4 or parallel.tensor=6"),
        (3, 3, 2, "parallel.tensor=1 or parallel.tensor=3"),
    ],
)
def test_ranks_that_do_not_divide_the_heads_are_told_the_nearest_that_do(heads, kv_heads, ranks, mend):
    with pytest.raises(RecipeError) as caught:
        refuse_model(_llama(heads, kv_heads), ranks)
    assert f"{ranks} ranks cannot share {heads} query heads and {kv_heads} key heads" in str(caught.value)
    assert caught.value.mend == mend


def test_ranks_that_divide_the_heads_are_welcome():
    refuse_model(tiny_llama(torch.float32), 2)
    refuse_model(_llama(12, 6, vocab_size=50), 3)


def test_a_bias_that_every_rank_would_add_is_refused_and_one_of_split_outputs_is_not():
    with pytest.raises(RecipeError, match=r"o_proj\.bias"):
        refuse_model(_llama(4, 2, attention_bias=True), 2)
    config = Qwen2Config(num_attention_heads=4, num_key_value_heads=2, vocab_size=48, **SIZES)
    with torch.device("meta"):
        refuse_model(Qwen2ForCausalLM(config), 2)


def test_a_matrix_that_is_in_no_plain_llama_is_refused():
    model = _llama(4, 2)
    model.model.layers[0].mlp.router = torch.nn.Linear(48, 4, device="meta")
    with pytest.raises(RecipeError, match=r"mlp\.router\.weight"):
        refuse_model(model, 2)
