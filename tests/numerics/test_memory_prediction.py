"""What layers keep for their backward pass, counted tensor by tensor, is what the prediction says."""

import pytest
import torch
from kept_bytes import KeptBytes
from tiny import LORA, build_training, make_plan, make_samples
from transformers import LlamaConfig, LlamaForCausalLM

from whet.data.packing import pack
from whet.estimate.memory import LEVELS, Job, Pass, kept_probabilities, saved_layer_bytes
from whet.kernels import recompute
from whet.recipe.schema import Adapter

LENGTHS = [300, 90, 600]
SIZES = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 2}


def training_with(num_layers, adapter, level):
    config = LlamaConfig(vocab_size=500, num_hidden_layers=num_layers, max_position_embeddings=1024, **SIZES)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16 if adapter else torch.float32).eval()
    plan = make_plan(len(LENGTHS), micro_batch=3, global_batch=3)
    training = build_training(model, make_samples(LENGTHS), plan, adapter=adapter)
    recompute.install(model, level)
    return training


def kept_bytes(training):
    batch = pack(training.samples, training.device)
    with training.dropout.micro_batch(0, batch):
        training.loss_model.nll_sum(batch)  # what is made once for all passes is there from here on
    with training.dropout.micro_batch(0, batch), KeptBytes() as kept:
        loss = training.loss_model.nll_sum(batch)
        total = kept.total
        del loss
    return total


def job(adapter):
    return Job(
        num_layers=1, hidden=96, intermediate=256, query_size=96, key_size=32, num_heads=6, vocab=500, num_base=0,
        num_trainable=0, trains_all=adapter is None, is_fused=adapter is not None,
        narrow_values=7 * adapter.rank if adapter else 0, compute_bytes=2 if adapter else 4, is_tied=False,
    )  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("adapter", [LORA, Adapter(rank=8, dropout=0.1), None], ids=["lora", "dropout", "all weights"])
def test_what_a_layer_keeps_is_what_is_predicted(adapter, level):
    """The difference of two models of three and two layers, so that nothing outside the layers counts."""
    three, two = (kept_bytes(training_with(num, adapter, level)) for num in (3, 2))
    one_pass = Pass(tokens=sum(LENGTHS), taught=0, probabilities=sum(kept_probabilities(n) for n in LENGTHS))
    assert saved_layer_bytes(job(adapter), one_pass, level) == pytest.approx(three - two, rel=0.05)
