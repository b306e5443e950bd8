import pytest
import torch
from tiny import loss_model_of, make_samples, summed_nll, tiny_llama

from whet.data.packing import pack
from whet.kernels import attention
from whet.train.loss import LossModel

SAMPLES = make_samples([9, 5, 12])


@pytest.fixture
def model():
    model = tiny_llama(torch.float32)
    attention.install(model)
    return model


def test_evaluation_counts_nll_taught_tokens_and_right_ones(model):
    nll, num_taught, num_correct = loss_model_of(model).evaluate(pack(SAMPLES))
    untouched = tiny_llama(torch.float32)
    expected = right = 0
    for sample in SAMPLES:
        expected += summed_nll(untouched, sample).item()
        best = untouched(torch.tensor(sample.ids[None].astype("int64")), use_cache=False).logits[0].argmax(-1).numpy()
        right += int((best[:-1] == sample.ids[1:])[sample.taught[1:]].sum())
    assert nll == pytest.approx(expected, rel=1e-6)
    assert (num_taught, num_correct) == (sum(s.num_taught for s in SAMPLES), right)


def test_training_and_evaluation_compute_the_same_sum(model):
    loss_model = loss_model_of(model)
    assert loss_model.nll_sum(pack(SAMPLES)).item() == pytest.approx(loss_model.evaluate(pack(SAMPLES))[0], rel=1e-6)


@pytest.mark.parametrize("longest", [0, 1024], ids=["flash", "matmul"])
def test_with_autocast_products_run_in_bfloat16_and_gradients_come_back_in_float32(model, longest):
    attention.install(model, longest_matmul_document=longest)
    loss_model = LossModel(
        backbone=model.model, head=model.get_output_embeddings(), compute_dtype=torch.bfloat16, uses_autocast=True
    )
    outputs = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _module, _args, out: outputs.append(out.dtype))
    nll = loss_model.nll_sum(pack(SAMPLES))
    nll.backward()
    assert outputs == [torch.bfloat16] and nll.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert nll.item() == pytest.approx(loss_model_of(model).nll_sum(pack(SAMPLES)).item(), rel=0.01)
