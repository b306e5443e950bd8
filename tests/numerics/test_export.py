"""Law: what is exported is what was trained, read back from the disk by the library that will use it.

Every run here changes the most probable token at more than 5 % of the positions: equality with an adapter that does
nothing would show nothing.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import VOCAB
from tiny_runs import read_base, write_adapter_run, write_base, write_full_run
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from whet.errors import GateError
from whet.export import EXPORTS, Request, merged
from whet.export.proof import PROOF
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.recipe.schema import Adapter

KINDS = {
    "lora": Adapter(rank=4, alpha=10.0),
    "rslora": Adapter(rank=6, alpha=10.0, rslora=True),
    "dora": Adapter(rank=4, alpha=10.0, method="dora"),
    "pissa": Adapter(rank=4, alpha=10.0, init="pissa"),
    "pissa + rslora": Adapter(rank=6, alpha=10.0, init="pissa", rslora=True),
    "olora": Adapter(rank=4, alpha=10.0, init="olora"),
    "several ranks": Adapter(rank=4, alpha=10.0, ranks={"q_proj": 7, "down_proj": 2}),
    "norms too": Adapter(rank=4, alpha=10.0, also_train=("norms",)),
}
IDS_BT = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (4, 40)))


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits.float()


def read_merged(folder):
    """By transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)


def mean_kl(p, q):
    return torch.nn.functional.kl_div(
        q.double().log_softmax(-1), p.double().log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1).mean()  # fmt: skip


def export(run, kind, **options):
    """(folder, what was said)."""
    said = []
    return EXPORTS[kind](Request(run_folder=run.folder, say=said.append, **options)), said


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(base, tmp_path):
    return write_adapter_run(tmp_path / "run", base, KINDS["lora"])


@pytest.mark.parametrize("kind", KINDS)
def test_live_is_merged_and_reloaded_is_exported_adapter_on_the_pristine_base(kind, base, tmp_path):
    run = write_adapter_run(tmp_path / "run", base, KINDS[kind])
    live = logits(run.live)
    assert (live.argmax(-1) != logits(read_base(base)).argmax(-1)).float().mean() > 0.05
    whole, _ = export(run, "hf")
    adapter, _ = export(run, "adapter")
    assert (logits(read_merged(whole)) - live).abs().max() < 1e-4
    assert (logits(PeftModel.from_pretrained(read_base(base), adapter)) - live).abs().max() < 1e-4
    for folder in (whole, adapter):
        proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
        assert proof["status"] == "proved" and all(proof["tokenizer"].values())
        assert proof["changed_by_tuning"] > 0.05
        for agreement in proof["agreements"]:
            assert agreement["max_logit_difference"] < 1e-4
            assert agreement["top1_agreement"] == agreement["greedy_agreement"] == 1.0


@pytest.mark.parametrize("kind", ["lora", "pissa", "dora"])
def test_bfloat16_files_keep_the_mean_kl_below_a_thousandth(kind, base, tmp_path):
    run = write_adapter_run(tmp_path / "run", base, KINDS[kind])
    live = logits(run.live)
    for name in ("hf", "adapter"):
        folder, _ = export(run, name, dtype="bfloat16")
        model = read_merged(folder) if name == "hf" else PeftModel.from_pretrained(read_base(base), folder)
        assert 0 < mean_kl(live, logits(model)) < 1e-3


def test_the_merged_model_of_a_bfloat16_base_keeps_its_format(tmp_path):
    base = write_base(tmp_path / "tiny", dtype=torch.bfloat16)
    run = write_adapter_run(tmp_path / "run", base, KINDS["lora"])
    folder, _ = export(run, "hf")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert mean_kl(logits(run.live), logits(read_merged(folder))) < 1e-3


def test_a_full_fine_tuning_passes_through(base, tmp_path):
    run = write_full_run(tmp_path / "run", base)
    folder, _ = export(run, "hf")
    assert torch.equal(logits(read_merged(folder)), logits(run.live))
    trained, written = (load_file(f / "model.safetensors") for f in (run.folder, folder))
    assert all(torch.equal(written[name], weight) for name, weight in trained.items())


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_stays_tied_or_apart(tmp_path, is_tied):
    base = write_base(tmp_path / "tiny", is_tied=is_tied)
    run = write_adapter_run(tmp_path / "run", base, KINDS["lora"])
    folder, _ = export(run, "hf")
    assert ("lm_head.weight" not in load_file(folder / "model.safetensors")) == is_tied
    model = read_merged(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
    assert (logits(model) - logits(run.live)).abs().max() < 1e-4


def test_shards_are_the_same_model(run):
    folder, _ = export(run, "hf", max_shard_bytes=100_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert (logits(read_merged(folder)) - logits(run.live)).abs().max() < 1e-4


def test_tokenizer_template_and_every_stop_token_travel_along(run):
    for kind in ("hf", "adapter"):
        folder, _ = export(run, kind)
        ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (run.base, folder))
        chat = [{"role": "user", "content": "What is 2 + 2?"}]
        assert ours.apply_chat_template(chat, add_generation_prompt=True) == theirs.apply_chat_template(
            chat, add_generation_prompt=True
        )
        assert GenerationConfig.from_pretrained(folder).eos_token_id == [0, 2]


def test_no_file_names_a_place_on_this_machine(run, tmp_path):
    for kind in ("hf", "adapter", "vllm"):
        folder, _ = export(run, kind)
        for path in folder.iterdir():
            assert str(tmp_path.parent).encode() not in path.read_bytes(), path.name


def test_base_hash_and_note_are_in_the_readme(run):
    folder, _ = export(run, "hf")
    config = json.loads((run.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert config["auto_mapping"]["base_weights_sha256"] in text and "base is tiny" in text


DAMAGES = {
    "a weight of the model": ("hf", "model.safetensors", "model.layers.1.mlp.up_proj.weight"),
    "a factor of the adapter": (
        "adapter", ADAPTER_WEIGHTS, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_artefact_that_was_damaged_on_the_way_to_the_disk_is_not_handed_over(run, damage, monkeypatch):
    kind, file, name = DAMAGES[damage]

    def damaging(folder, source):
        tensors = load_file(folder / file)
        tensors[name][:4] *= 1.05
        save_file(tensors, folder / file, metadata={"format": "pt"})
        written(folder, source)

    module = merged if kind == "hf" else pytest.importorskip("whet.export.adapter")
    written = module.write_companions
    monkeypatch.setattr(module, "write_companions", damaging)
    with pytest.raises(GateError, match=r"is not the model that was trained.*logit difference") as caught:
        export(run, kind)
    assert caught.value.exit_code == 8
    assert [path.name for path in run.folder.parent.iterdir()] == ["run"]


COMPANION_DAMAGES = {
    "the end token": ("tokenizer_config.json", lambda d: d.update(eos_token="<|endoftext|>"), "end of sequence"),
    "the template": ("chat_template.jinja", None, "chat template"),
    "a stop token": ("generation_config.json", lambda d: d.update(eos_token_id=[2]), "stop tokens"),
    "the words": ("tokenizer.json", lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "encoding of text"),
}


@pytest.mark.parametrize("damage", COMPANION_DAMAGES)
def test_other_tokens_or_another_template_are_not_handed_over(run, damage, monkeypatch):
    file, change, fault = COMPANION_DAMAGES[damage]

    def damaging(folder, source):
        written(folder, source)
        if change is None:
            (folder / file).write_text("{{ messages[0]['content'] }}", encoding="utf-8")
            return
        document = json.loads((folder / file).read_text(encoding="utf-8"))
        change(document)
        (folder / file).write_text(json.dumps(document), encoding="utf-8")

    written = merged.write_companions
    monkeypatch.setattr(merged, "write_companions", damaging)
    with pytest.raises(GateError, match=f"{fault} differs"):
        export(run, "hf")


def test_without_a_proof_the_export_says_so(run):
    folder, said = export(run, "hf", is_proved=False)
    assert json.loads((folder / PROOF).read_text(encoding="utf-8"))["status"] == "not proved: --no-proof was given"
    assert said == ["not proved: --no-proof was given"]
    assert "Not proved equal." in (folder / "README.md").read_text(encoding="utf-8")


def test_an_adapter_of_nemo_s_fused_layers_is_exported_as_its_dense_product(base, tmp_path):
    generator = torch.Generator().manual_seed(0)
    sizes = {"self_attention.linear_qkv": (128, 64), "self_attention.linear_proj": (64, 64),
             "mlp.linear_fc1": (192, 64), "mlp.linear_fc2": (64, 96)}  # fmt: skip
    tensors, dense = {}, {}
    for layer in (0, 1):
        for name, (num_out, num_in) in sizes.items():
            a_RI = 0.1 * torch.randn(3, num_in, generator=generator)
            b_OR = 0.1 * torch.randn(num_out, 3, generator=generator)
            stem = f"model.decoder.layers.{layer}.{name}.adapter"
            tensors |= {f"{stem}.linear_in.weight": a_RI, f"{stem}.linear_out.weight": b_OR}
            dense[f"{layer}.{name}"] = 4.0 * b_OR @ a_RI
    folder = tmp_path / "nemo"
    folder.mkdir()
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 12, "target_modules": [n.split(".")[1] for n in sizes]}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    expected = read_base(base)
    with torch.no_grad():
        for index, layer in enumerate(expected.model.layers):
            qkv = dense[f"{index}.self_attention.linear_qkv"]
            # two groups of (two heads of queries, one of keys, one of values), 16 rows each
            layer.self_attn.q_proj.weight += torch.cat([qkv[0:32], qkv[64:96]])
            layer.self_attn.k_proj.weight += torch.cat([qkv[32:48], qkv[96:112]])
            layer.self_attn.v_proj.weight += torch.cat([qkv[48:64], qkv[112:128]])
            layer.self_attn.o_proj.weight += dense[f"{index}.self_attention.linear_proj"]
            layer.mlp.gate_proj.weight += dense[f"{index}.mlp.linear_fc1"][:96]
            layer.mlp.up_proj.weight += dense[f"{index}.mlp.linear_fc1"][96:]
            layer.mlp.down_proj.weight += dense[f"{index}.mlp.linear_fc2"]
    for kind in ("hf", "adapter"):
        written = EXPORTS[kind](Request(run_folder=folder, base=str(base), say=lambda _: None))
        model = read_merged(written) if kind == "hf" else PeftModel.from_pretrained(read_base(base), written)
        assert (logits(model) - logits(expected)).abs().max() < 1e-4
    assert (logits(expected).argmax(-1) != logits(read_base(base)).argmax(-1)).float().mean() > 0.05


def test_a_checkpoint_is_exported_like_its_run(run):
    checkpoint = run.folder / "checkpoint-3"
    shutil.copytree(run.folder, checkpoint, ignore=shutil.ignore_patterns("checkpoint-*", "generation_config.json"))
    folder, _ = export(type(run)(folder=checkpoint, base=run.base, live=run.live), "hf")
    assert folder.name == "checkpoint-3-hf"
    assert (logits(read_merged(folder)) - logits(run.live)).abs().max() < 1e-4
