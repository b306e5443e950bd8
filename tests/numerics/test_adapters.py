"""Laws of every kind of adapter: at step 0 it is the base, and live = saved = read by PEFT = merged = by hand."""

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import IDENTITY, VOCAB, attach, distance, loss_model_of, make_samples, perturb, tiny_llama

from whet.data.packing import pack
from whet.kernels import lora_linear, select
from whet.models import adapter_init
from whet.models.adapter_init import INSIDE_BASE, START_NAME
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_NAME, read_adapter
from whet.models.merge import merge_adapter
from whet.recipe.schema import Adapter

KINDS = {
    "lora": Adapter(rank=4, alpha=10.0),
    "gaussian": Adapter(rank=4, alpha=10.0, init="gaussian"),
    "orthogonal": Adapter(rank=4, alpha=10.0, init="orthogonal"),
    "rslora": Adapter(rank=6, alpha=10.0, rslora=True),
    "dora": Adapter(rank=4, alpha=10.0, method="dora"),
    "dora + rslora": Adapter(rank=6, alpha=10.0, method="dora", rslora=True),
    "pissa": Adapter(rank=4, alpha=10.0, init="pissa"),
    "pissa fast": Adapter(rank=4, alpha=10.0, init="pissa_fast"),
    "pissa + rslora": Adapter(rank=6, alpha=10.0, init="pissa", rslora=True),
    "olora": Adapter(rank=4, alpha=10.0, init="olora"),
    "several ranks": Adapter(rank=4, alpha=10.0, ranks={"q_proj": 7, "down_proj": 2}),
    "pissa + rslora, several ranks": Adapter(rank=3, alpha=10.0, init="pissa", rslora=True, ranks={"v_proj": 5}),
    "dora, several ranks": Adapter(rank=4, alpha=10.0, method="dora", ranks={"up_proj": 3}),
    "norms too": Adapter(rank=4, alpha=10.0, also_train=("norms",)),
    "pissa, norms too": Adapter(rank=4, alpha=10.0, init="pissa", also_train=("norms",)),
}
SAMPLE = make_samples([40])[0]
IDS_BT = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (3, 40)))


def _logits(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits.double()


def _attached(adapter, dtype=torch.float32, **options):
    model = tiny_llama(dtype)
    return model, attach(model, adapter, **options)


def _moved(adapter, dtype=torch.float32):
    """An adapter away from its start: every factor by a tenth of its own size, B also where it starts at zero."""
    model, trainables = _attached(adapter, dtype)
    perturb(trainables, size=0.03)
    return model, trainables


def _save(trainables, folder):
    save_file({n: t.detach().contiguous() for n, t in trainables.tensors().items()}, folder / trainables.weights_file)
    for name, document in trainables.documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_the_model_is_the_base(kind, dtype):
    model, _ = _attached(KINDS[kind], dtype)
    select.install(model, adapter_name=ADAPTER_NAME, start_name=START_NAME)
    base = tiny_llama(dtype)
    select.install(base, adapter_name=None)
    batch = pack([SAMPLE])
    hidden, expected = (loss_model_of(m).hidden(batch).double() for m in (model, base))
    if kind == "orthogonal":
        # B A is zero but for the rounding of the float32 draw and, in bfloat16, of the factors as they are multiplied
        assert 0 < distance(hidden, expected) < (2e-2 if dtype == torch.bfloat16 else 2e-6)
    else:
        assert torch.equal(hidden, expected)
