"""whet's run against TRL's SFTTrainer on the same rows, weights, order and schedule: every step, then the adapter.

TRL tokenizes the same files by itself (`assistant_only_loss`, the chat template marks the answer with its end token),
pads each micro-batch and runs eager PEFT layers; whet packs without padding and runs its own kernels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_adapter import read_adapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from whet.data.pipeline import prepare
from whet.data.sampler import Order
from whet.models.adapters import attach_lora
from whet.recipe.resolve import resolve
from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Source, Train
from whet.train.run import Options, run_recipe
from whet.types import ModelIdentity

# Other libraries speak here; each line is theirs to mend, and names its text so that nothing else passes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

RANK, ALPHA, SEED, LR = 4, 8.0, 3, 5e-3
MICRO, ACCUMULATION, NUM_ROWS, WARMUP_STEPS = 2, 2, 30, 2
NUM_STEPS = 8
"""The last step has 2 rows instead of 4."""

# `generation` marks what TRL's assistant_only_loss teaches; the new line after the end of turn stays outside
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Step:
    loss: float
    lr: float
    grad_norm: float


@dataclass(frozen=True)
class Side:
    """What one of the two trainers did."""

    labels: list[list[int]]
    """per row in order of training: the token where it is taught, else -100"""
    ids: list[list[int]]
    steps: list[Step]
    adapter: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A 2-layer Llama with a byte tokenizer whose pad token is its end token, as SmolLM2's is."""
    folder = tmp_path_factory.mktemp("model")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(tokens[:3])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.08,
        bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Conversations of very different lengths, some with two answers and a system message."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefgh ijk"))

    def words(low: int, high: int) -> str:
        return "x" + "".join(rng.choice(letters, int(rng.integers(low, high)))) + "y"

    rows = []
    for number in range(NUM_ROWS):
        turns = [{"role": "user", "content": words(3, 40)}, {"role": "assistant", "content": words(1, 60)}]
        if number % 5 == 0:
            turns += [{"role": "user", "content": words(3, 9)}, {"role": "assistant", "content": words(1, 9)}]
        if number % 7 == 0:
            turns.insert(0, {"role": "system", "content": words(3, 20)})
        rows.append({"messages": turns})
    return rows


def recipe_for(model_folder: Path, folder: Path, rows: list[dict]) -> Recipe:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe(
        name="parity",
        output=str(folder / "run"),
        seed=SEED,
        model=Model(id=str(model_folder), dtype="float32"),
        adapter=Adapter(rank=RANK, alpha=ALPHA),
        data=Data(train=(Source(source=str(path)),), max_length=256),
        batch=Batch(global_size=MICRO * ACCUMULATION, micro_size=MICRO),
        optim=Optim(lr=LR, warmup=WARMUP_STEPS, schedule="cosine", weight_decay=0.1, max_grad_norm=0.5),
        train=Train(device="cpu", threads=1),
        tracking=(),
    )


@pytest.fixture(scope="module")
def order(model_folder, rows, tmp_path_factory) -> tuple[list[int], Recipe]:
    """whet's order of the rows over the whole run, and the recipe."""
    recipe = recipe_for(model_folder, tmp_path_factory.mktemp("whet"), rows)
    plan = resolve(recipe, world_size=1, num_samples=NUM_ROWS)
    assert plan.total_steps == NUM_STEPS
    rows = Order(np.ones(NUM_ROWS, dtype=np.int32), seed=SEED)
    return [int(i) for step in range(NUM_STEPS) for i in rows.step(plan, step).indices], recipe


@pytest.fixture(scope="module")
def whet_side(order, model_folder) -> Side:
    indices, recipe = order
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    samples = prepare(recipe, tokenizer, end_ids=[2], base_folder=Path.cwd()).train.samples
    run_recipe(recipe, Options(say=lambda _: None))
    lines = [json.loads(line) for line in (Path(recipe.output) / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    return Side(
        labels=[np.where(samples[i].taught, samples[i].ids, -100).tolist() for i in indices],
        ids=[samples[i].ids.tolist() for i in indices],
        steps=[Step(s["loss"], s["lr"], s["grad_norm"]) for s in steps],
        adapter=read_adapter(Path(recipe.output))[1],
    )


@pytest.fixture(scope="module")
def trl_side(order, model_folder, rows, tmp_path_factory) -> Side:
    trainer = build_trl(model_folder, [rows[i] for i in order[0]], tmp_path_factory.mktemp("trl"))
    prepared = trainer.train_dataset
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    from peft import get_peft_model_state_dict

    return Side(
        labels=list(prepared["labels"]),
        ids=list(prepared["input_ids"]),
        steps=[Step(e["loss"], e["learning_rate"], e["grad_norm"]) for e in logged],
        adapter=get_peft_model_state_dict(trainer.model),
    )


def build_trl(model_folder: Path, rows: list[dict], folder: Path, *, assistant_only_loss: bool = True):
    """TRL's trainer over the same start: the adapter's first values are copied from whet's."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from trl import SFTConfig, SFTTrainer

    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear"
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config)
    set_peft_model_state_dict(model, first_adapter(model_folder))
    arguments = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, seed=SEED, assistant_only_loss=assistant_only_loss,
        per_device_train_batch_size=MICRO, gradient_accumulation_steps=ACCUMULATION, num_train_epochs=1,
        learning_rate=LR, lr_scheduler_type="cosine", warmup_steps=WARMUP_STEPS, weight_decay=0.1, max_grad_norm=0.5,
        train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        dataloader_pin_memory=False, activation_checkpointing=False,
    )  # fmt: skip
    return SFTTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_folder),
    )


def first_adapter(model_folder: Path) -> dict[str, torch.Tensor]:
    model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    identity = ModelIdentity(id="tiny", revision=None, weights_sha256="0" * 64)
    trainables = attach_lora(
        model, Adapter(rank=RANK, alpha=ALPHA), seed=SEED, identity=identity, make_dropout=lambda p, name: None
    )
    return {name: p.detach().clone() for name, p in trainables.named.items()}


def test_the_same_tokens_are_taught(whet_side, trl_side):
    assert whet_side.ids == trl_side.ids
    assert whet_side.labels == trl_side.labels
    ends = [ids.count(2) for ids in whet_side.ids]
    assert sum(labels.count(2) for labels in whet_side.labels) < sum(ends), "ends of user turns are not taught"
    assert all(labels.count(2) >= 1 for labels in whet_side.labels), "every row teaches to stop, though pad == eos"


def test_learning_rates_are_the_same_at_every_step(whet_side, trl_side):
    assert len(whet_side.steps) == len(trl_side.steps) == NUM_STEPS
    assert [s.lr for s in whet_side.steps] == pytest.approx([s.lr for s in trl_side.steps], rel=1e-12)


def test_losses_are_the_same_at_every_step(whet_side, trl_side):
    gaps = [abs(a.loss - b.loss) for a, b in zip(whet_side.steps, trl_side.steps, strict=True)]
    assert max(gaps) < 1e-5, gaps
    assert whet_side.steps[0].loss - whet_side.steps[-1].loss > 0.1, "the run must have learned something"


def test_gradient_norms_are_the_same_at_every_step(whet_side, trl_side):
    # float32 sums in another order: 1e-6 relative per gradient, and weights that differ by the steps before
    assert [s.grad_norm for s in whet_side.steps] == pytest.approx([s.grad_norm for s in trl_side.steps], rel=1e-4)
    assert max(s.grad_norm for s in whet_side.steps) > 0.5, "clipping must have acted"


def test_the_final_adapters_are_the_same(whet_side, trl_side, model_folder):
    start = first_adapter(model_folder)
    assert whet_side.adapter.keys() == trl_side.adapter.keys() == start.keys()

    def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([(tensors[name] - start[name]).double().flatten() for name in sorted(start)])

    ours, theirs = flat(whet_side.adapter), flat(trl_side.adapter)
    # of the update, not of the weights: Adam turns rounding into sign changes where a gradient is near zero
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


def test_trl_completion_loss_teaches_the_new_line_after_the_end_too(model_folder, rows, tmp_path, whet_side, order):
    """Why the rows above are `messages`: of prompt and completion TRL teaches one token more, which whet does not."""
    pairs = [(rows[i]["messages"], labels) for i, labels in zip(order[0], whet_side.labels, strict=True)]
    single = [(turns, labels) for turns, labels in pairs if sum(t["role"] == "assistant" for t in turns) == 1]
    trainer = build_trl(
        model_folder,
        [{"prompt": turns[:-1], "completion": turns[-1:]} for turns, _ in single],
        tmp_path,
        assistant_only_loss=False,
    )
    new_line = AutoTokenizer.from_pretrained(model_folder)("\n")["input_ids"]
    for (_, ours), theirs in zip(single, trainer.train_dataset["labels"], strict=True):
        assert [t for t in theirs if t != -100] == [t for t in ours if t != -100] + new_line
