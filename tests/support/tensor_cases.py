"""Short runs that must not depend on how many ranks share each layer. `python tensor_cases.py FOLDER` is one rank.

`results` is called by the tests in one process, and by every rank of a launch (RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT) of four, which leaves rank-N.safetensors and rank-N.json in FOLDER. Four ranks are two data ranks with two
tensor ranks each, or share each layer all together. No number of ranks divides the tokens of every pass.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama
from tiny_live import make_live, make_rows
from torch import Tensor

from whet.kernels.recompute import Recompute
from whet.optim.build import optimizer_tensors
from whet.parallel import env as parallel_env
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, layout_of, make_layout
from whet.parallel.shares import full_tensors, split_dim
from whet.parallel.tensor_group import group_of
from whet.recipe.schema import Adapter, Optim, Parallel
from whet.train.held_out import evaluate_loss
from whet.train.loop import Training
from whet.types import TokenizedSample

LENGTHS = [17, 9, 30, 5, 12, 8]
PADDING = 2
"""of tiny_llama: the embedding's row that gets no gradient as an input"""
OPTIM = Optim(lr=1e-3, schedule="cosine", warmup=1, weight_decay=0.1, max_grad_norm=0.5)
LORA = Adapter(rank=4, alpha=8.0, dropout=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    adapter: Adapter | None = LORA
    dtype: torch.dtype = torch.float64
    is_tied: bool = True
    num_samples: int = 6
    micro_batch: int = 1
    num_kv_heads: int = 2
    recompute: Recompute = "none"
    optim: Optim = OPTIM
    layouts: tuple[tuple[str, int], ...] = (("replicate", 2),)
    """(strategy, tensor ranks)"""


PAIRS, SHARDED_PAIRS, ALL_FOUR = ("replicate", 2), ("fsdp", 2), ("replicate", 4)
ALL = Adapter(rank=4, alpha=8.0, dropout=0.3, targets="all-linear")
CASES = {
    "lora on all layers with dropout": Case(adapter=ALL, layouts=(PAIRS, SHARDED_PAIRS)),
    "lora in float32, everything recomputed": Case(dtype=torch.float32, micro_batch=2, recompute="full"),
    "rank-stabilised pissa with dropout, feed-forward parts recomputed": Case(
        adapter=Adapter(rank=4, alpha=8.0, init="pissa", rslora=True, dropout=0.3, targets="all-linear"),
        micro_batch=2,
        recompute="mlp",
    ),
    "lora with norms and embeddings": Case(
        adapter=Adapter(rank=4, alpha=8.0, also_train=("norms", "embeddings"), targets=("o_proj", "up_proj")),
        is_tied=False,
    ),
    "all weights, tied": Case(adapter=None, num_samples=5, micro_batch=2),
    "all weights, head of its own, four key heads": Case(
        adapter=None, is_tied=False, num_kv_heads=4, recompute="norms", layouts=(PAIRS, ALL_FOUR, SHARDED_PAIRS)
    ),
}  # fmt: skip
RUNS = {
    f"{name} ({strategy}, {tensor} share)": (name, strategy, tensor)
    for name, case in CASES.items()
    for strategy, tensor in case.layouts
}
ANSWERED = next(iter(RUNS))
"""the run that also answers: every token that is written takes a dozen collectives"""


def samples_with_padding(lengths: list[int], seed: int = 0) -> list[TokenizedSample]:
    """Prompts also hold the padding token, and the token that has its number in the second of two parts of 250."""
    samples = make_samples(lengths, seed=seed)
    for sample in samples:
        sample.ids[:2] = [PADDING, 250 + PADDING]
    return samples


def run_case(name: str, env: Env, layout: Layout) -> tuple[dict, dict[str, Tensor], Training]:
    """(numbers of three steps and of an evaluation, {trained parameter: its way from the start, whole}, the run)."""
    case = CASES[name]
    plan = make_plan(
        case.num_samples, micro_batch=case.micro_batch, global_batch=4, world_size=layout.num_data_ranks, total_steps=3
    )  # fmt: skip
    model = tiny_llama(case.dtype, is_tied=case.is_tied, num_kv_heads=case.num_kv_heads)
    training = build_training(
        model, samples_with_padding(LENGTHS[: case.num_samples]), plan, adapter=case.adapter, optim=case.optim,
        env=env, layout=layout, recompute_level=case.recompute,
        validation=samples_with_padding([9, 31, 4, 17, 6], seed=9),
    )  # fmt: skip
    start = whole(training.trainables.named, layout)
    records = run_steps(training)
    evaluated = evaluate_loss(training)
    numbers = {
        "losses": [r.loss for r in records],
        "norms": [r.grad_norm for r in records],
        "hashes": [r.batch_hash for r in records],
        "eval": [evaluated["loss"], evaluated["token_accuracy"], evaluated["num_taught"]],
        "held by all": held_by_all(training),
        "fused": training.kernels.get("mlp", training.kernels["swiglu"]),
    }
    end = whole(training.trainables.named, layout)
    return numbers, {key: end[key].double() - start[key].double() for key in end}, training


def whole(named: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Copies, with the ranks' parts joined."""
    if layout.num_tensor_ranks == 1:
        return {name: tensor.detach().clone() for name, tensor in named.items()}
    return {name: tensor.clone() for name, tensor in full_tensors(named, group_of(layout)).items()}


def held_by_all(training: Training) -> str:
    """SHA-256 over what every rank holds whole, and its moments."""
    named = training.trainables.named
    tensors = {**named, **optimizer_tensors(training.optimizer, named)}
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if split_dim(name) is None):
        tensor = tensors[name].detach()
        digest.update((tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).numpy().tobytes())
    return digest.hexdigest()


def adapter_file(training: Training, layout: Layout) -> dict[str, Tensor]:
    """The tensors of the adapter file, as one process would write it."""
    assert training.trainables.form is not None
    return training.trainables.form.to_file(whole(training.trainables.all_values, layout))


def answers(training: Training, env: Env, layout: Layout) -> dict[str, float]:
    """What the model writes as it is, and how likely it finds the gold answers."""
    metrics = ("answer_length", "stop_rate", "exact_match", "loss")
    live = make_live(training.model, make_rows(["7", "", "\n\n", " Na", "5"]), metrics=metrics, batch_rows=2, env=env,
                     layout=layout)  # fmt: skip
    return live.measure()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    env = parallel_env.read_env()
    parallel_env.start(env, torch.device("cpu"))
    document, moved = {}, {}
    try:
        for label, (name, strategy, tensor) in RUNS.items():
            parallel = Parallel(strategy=strategy, tensor=tensor)
            layout = make_layout(parallel, env, strategy=strategy, device_type="cpu")
            document[label], ways, training = run_case(name, env, layout)
            moved |= {f"{label}/{key}": way for key, way in ways.items()}
            if label == ANSWERED:
                document[label]["answers"] = answers(training, env, layout)
            if CASES[name].adapter is not None and strategy == "replicate":
                file = adapter_file(training, layout)
                moved |= {f"{label}/file/{key}": tensor for key, tensor in file.items()}
    finally:
        parallel_env.stop()
    save_file({name: tensor.contiguous() for name, tensor in moved.items()}, folder / f"rank-{env.rank}.safetensors")
    (folder / f"rank-{env.rank}.json").write_text(json.dumps(document), encoding="utf-8")


def alone(name: str) -> tuple[dict, dict[str, Tensor], Training]:
    """The same run by one rank."""
    return run_case(name, Env(), layout_of(Parallel(), Env(), strategy="replicate"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
