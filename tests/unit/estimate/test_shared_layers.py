"""Memory of ranks that share each layer, against the model as it is cut for one of them."""

from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from whet.estimate.memory import Job, Pass, predict
from whet.estimate.shared_layers import shared_by, shared_memory_parts
from whet.parallel.tensor import parallelize
from whet.parallel.tensor_group import TensorGroup

ADAPTER = 207_093_760
"""rank 16 on all linear layers of Llama 3 70B"""
LLAMA_70B = Job(
    num_layers=80, hidden=8192, intermediate=28_672, query_size=8192, key_size=1024, num_heads=64, vocab=128_256,
    num_base=70_553_706_496, num_trainable=ADAPTER, trains_all=False, is_fused=True, narrow_values=7 * 16,
    compute_bytes=2, is_tied=False, process_bytes=0, device="cuda",
)  # fmt: skip
PASS = Pass(tokens=8192, taught=4096, probabilities=0)


def test_a_rank_of_eight_holds_an_eighth_of_the_published_70b_as_it_is_cut():
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    parallelize(model, TensorGroup(rank=3, size=8, processes=None))
    held = sum(p.numel() for p in model.parameters())
    assert held == shared_by(LLAMA_70B, 8).num_base
    assert 17.6e9 < 2 * held < 17.7e9


def test_lora_on_70b_fits_gpus_of_80_gb_where_eight_share_it_and_not_one_alone():
    parts = shared_memory_parts(LLAMA_70B, PASS, "full", num_shards=1, num_ranks=8)
    assert sum(parts.values()) < 0.8 * 80e9 < sum(predict(LLAMA_70B, PASS, "full").values())


def test_one_rank_is_predicted_as_before_and_shares_fall_with_the_number_of_ranks():
    assert shared_memory_parts(LLAMA_70B, PASS, "mlp", num_shards=1, num_ranks=1) == predict(LLAMA_70B, PASS, "mlp")
    for recompute in ("none", "mlp", "full"):
        totals = [
            sum(shared_memory_parts(LLAMA_70B, PASS, recompute, num_shards=1, num_ranks=n).values())
            for n in (1, 2, 4, 8)
        ]
        assert totals == sorted(totals, reverse=True)


def test_where_all_weights_train_gradients_and_moments_are_those_of_the_parts():
    job = replace(LLAMA_70B, trains_all=True, num_trainable=70_553_706_496)
    parts = shared_memory_parts(job, PASS, "full", num_shards=1, num_ranks=8)
    assert parts["moments"] == 2 * 4 * shared_by(job, 8).num_base
