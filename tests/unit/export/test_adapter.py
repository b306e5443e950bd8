"""Foreign adapters become plain LoRA; what vLLM cannot serve is refused."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_runs import read_base, write_base

from whet.errors import RecipeError
from whet.export import EXPORTS, Request
from whet.export.adapter import VLLM_RANKS, refuse_what_vllm_does_not_serve, vllm_command
from whet.models.adapter_source import AdapterUpdate, LayerUpdate
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

pytestmark = pytest.mark.slow

IDS_BT = torch.arange(3, 63).view(2, 30)
FOREIGN = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 6, "0.mlp.up_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
    "an embedding apart from its head": {"modules_to_save": ["embed_tokens"]},
    "some layers": {"layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("model") / "tiny")


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_of_pefts_own_becomes_plain_lora_of_one_rank_and_alpha(kind, base, tmp_path):
    targets = ["q_proj", "up_proj", "down_proj"]
    config = LoraConfig(target_modules=targets, r=4, lora_alpha=9, task_type="CAUSAL_LM", **FOREIGN[kind])
    model = get_peft_model(read_base(base), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "foreign")
    live = logits(model)
    assert (live - logits(read_base(base))).abs().max() > 0.1
    for name in ("adapter", "hf"):
        EXPORTS[name](Request(run_folder=tmp_path / "foreign", base=str(base), say=lambda _: None))
    exported = tmp_path / "foreign-adapter"
    document = json.loads((exported / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    assert not document["use_rslora"] and "rank_pattern" not in document and "alpha_pattern" not in document
    ranks = {t.shape[0] for n, t in load_file(exported / ADAPTER_WEIGHTS).items() if "lora_A" in n}
    assert ranks == {document["r"]}
    assert (logits(PeftModel.from_pretrained(read_base(base), exported)) - live).abs().max() < 1e-4
    assert (logits(read_base(tmp_path / "foreign-hf")) - live).abs().max() < 1e-4


def update(rank=8, name="model.layers.0.self_attn.q_proj", *, magnitude=None, replaced=None):
    layer = LayerUpdate(a_RI=torch.ones(rank, 4), b_OR=torch.ones(4, rank), scale=1.0, magnitude_O=magnitude)
    return AdapterUpdate(layers={name: layer}, replaced=replaced or {})


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (update(magnitude=torch.ones(4)), "DoRA"),
        (
            update(replaced={"model.norm.weight": torch.ones(4)}),
            r"trained along with the adapter \(model.norm.weight\)",
        ),
        (update(rank=513), r"rank 513 \(its largest is 512\)"),
        (update(name="lm_head"), "an adapted output head"),
    ],
)
def test_what_vllm_does_not_serve_is_refused_with_the_way_out(refused, reason):
    with pytest.raises(RecipeError, match=f"(?s){reason}.*--to hf"):
        refuse_what_vllm_does_not_serve(refused, "run")


def test_what_vllm_serves_passes():
    refuse_what_vllm_does_not_serve(update(rank=512), "run")


@pytest.mark.parametrize(("rank", "max_rank"), [(1, 1), (4, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_the_command_reserves_the_smallest_rank_that_holds_the_adapter(rank, max_rank):
    assert f"--max-lora-rank {max_rank} " in vllm_command("base", "mine", rank)
    assert max_rank in VLLM_RANKS


def test_a_full_fine_tuning_is_no_adapter(base, tmp_path):
    from tiny_runs import write_full_run

    run = write_full_run(tmp_path / "run", base)
    with pytest.raises(RecipeError, match=r"(?s)full fine-tuning, not an adapter.*--to hf"):
        EXPORTS["adapter"](Request(run_folder=run.folder))
