"""The workers of the GPU benchmarks: a rung of a ladder, a layer against float32, the products alone."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu_side import SHAPES, build, timed, whet_step, work
from whet.data.packing import to_device
from whet.kernels import fp8, select
from whet.models.adapters import ADAPTER_NAME

MODULES = ("adapter", "qkv", "mlp", "norm", "rotary", "swiglu")
"""what `select.install` can leave out"""
REPEATS = 10
FLUSHED_BYTES = 2**28
"""written before each timed product, so that no input lies in the cache: five times the L2 of an H200"""


def rung(job: dict[str, Any]) -> dict[str, Any]:
    """Timed steps of whet, or of transformers with PEFT where the job says so."""
    run = build(job)
    _leave_out(run, job)
    return timed(job, run, _full_logits_step(run, job) if job.get("has_full_logits") else whet_step(run))


def _leave_out(run: Any, job: dict[str, Any]) -> None:
    if job.get("off"):
        chosen = select.install(
            run.model, adapter_name=ADAPTER_NAME if run.trainables.is_adapter else None, off=frozenset(job["off"]),
            attention_kind=run.plan.attention, compute_dtype=run.loss_model.compute_dtype,
        )  # fmt: skip
        run.kernels.update(chosen)
    if job.get("is_padded"):
        select.uninstall(run.model)
        run.model.set_attn_implementation("sdpa")
        _use_plain_dropout(run.model, job["adapter"].get("dropout", 0.0))
        run.kernels.clear()
        run.kernels["all"] = "transformers and PEFT, SDPA"


def _use_plain_dropout(model: Any, p: float) -> None:
    """PEFT's own dropout module: whet's masks are for packed rows."""
    for module in model.modules():
        if ADAPTER_NAME in getattr(module, "lora_dropout", {}):
            module.lora_dropout[ADAPTER_NAME] = torch.nn.Dropout(p) if p else torch.nn.Identity()


def _full_logits_step(run: Any, job: dict[str, Any]) -> Callable[[int], float]:
    """A step with the logits of all positions in float32 and torch's cross-entropy over them, as trainers have it."""

    def step(number: int) -> float:
        rows = run.rows(number)
        run.model.train()
        run.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=run.device)
        for in_memory in rows.batches:
            batch = to_device(in_memory, run.device)
            with run.dropout.micro_batch(number, batch), run.loss_model.precision(run.device.type):
                hidden, labels = _padded(run, batch) if job.get("is_padded") else (_packed(run, batch), batch.labels_T)
                logits_TV = run.loss_model.head(hidden).float()
                loss = torch.nn.functional.cross_entropy(logits_TV, labels, reduction="sum") / rows.num_taught
            loss.backward()
            total += loss.detach()
            del logits_TV, hidden, loss
        torch.nn.utils.clip_grad_norm_(run.trainables.with_gradients, 1.0)
        run.optimizer.step()
        return total.item()

    return step


def _packed(run: Any, batch: Any) -> torch.Tensor:
    return run.loss_model.hidden(batch)


def _padded(run: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden states, labels) of the pack's documents as padded rows, both flat."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(list(batch.ids_T.split(batch.lengths)), batch_first=True)
    labels = pad(list(batch.labels_T.split(batch.lengths)), batch_first=True, padding_value=-100)
    lengths = torch.tensor(batch.lengths, device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
    hidden = run.loss_model.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), labels.flatten()


def check(job: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients of one layer at full width against transformers and PEFT in float32, dropout masks alike.

    Weights are drawn in bfloat16, so that float32 starts from the same numbers. Errors are relative L2 distances over
    all gradients.
    """
    reference_loss, reference = _gradients(job | {"dtype": "float32", "off": MODULES})
    found: dict[str, Any] = {"reference_loss": reference_loss}
    ways: dict[str, dict[str, Any]] = {"transformers and PEFT": {"off": MODULES}, "whet": {}}
    if job["adapter"].get("method") != "none":
        ways["whet, float8 base"] = {"quantize": "fp8"}
    for name, change in ways.items():
        loss, gradients = _gradients(job | change)
        squares = {n: float((gradients[n] - g).square().sum()) for n, g in reference.items()}
        norms = {n: float(g.square().sum()) for n, g in reference.items()}
        found[name] = {
            "loss_gap": loss - reference_loss,
            "gradient_error": (sum(squares.values()) / sum(norms.values())) ** 0.5,
            "largest_gradient_error": max((squares[n] / norms[n]) ** 0.5 for n in norms if norms[n]),
        }
    return found


def _gradients(job: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, float32 gradients on the host) of the first step, before any update."""
    run = build(job | {"drawn_in": "bfloat16", "optim": {**job.get("optim", {})}})
    _leave_out(run, {"off": job.get("off"), "adapter": job["adapter"]})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in run.trainables.named.items():
            if ".lora_B." in name:  # it starts at zero, and so would the gradient of A
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    rows = run.rows(0)
    run.model.train()
    total = 0.0
    for in_memory in rows.batches:
        batch = to_device(in_memory, run.device)
        with run.dropout.micro_batch(0, batch):
            nll = run.loss_model.nll_sum(batch)
            (nll / rows.num_taught).backward()
        total += nll.item()
    named = run.trainables.weights or run.trainables.named
    return total / rows.num_taught, {n: p.grad.float().cpu() for n, p in named.items() if p.grad is not None}


def ceiling(job: dict[str, Any]) -> dict[str, Any]:
    """FLOP/s of the products of the frozen weights alone, forward and for the gradient of their input; medians.

    With float8 where the device multiplies it: rows and columns have scales, quantising is not timed.
    """
    shape, device, tokens = SHAPES[job["shape"]], torch.device(job["device"]), job["tokens"]
    dtype = getattr(torch, job["dtype"])
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    sizes = {
        "q, k, v": (query + 2 * key, shape.hidden), "o": (shape.hidden, query),
        "gate, up": (2 * shape.inner, shape.hidden), "down": (shape.hidden, shape.inner),
    }  # fmt: skip
    has_fp8 = fp8.why_emulated(device, dtype) is None
    rows: dict[str, Any] = {}
    for name, (outputs, inputs) in sizes.items():
        generator = torch.Generator(device).manual_seed(0)
        weight_OI = torch.randn(outputs, inputs, device=device, generator=generator).to(dtype)
        x_TI = torch.randn(tokens, inputs, device=device, generator=generator).to(dtype)
        dy_TO = torch.randn(tokens, outputs, device=device, generator=generator).to(dtype)
        ways = {"forward": lambda x=x_TI, w=weight_OI: x @ w.T, "input gradient": lambda dy=dy_TO, w=weight_OI: dy @ w}
        if has_fp8:
            ways["forward, float8"] = _scaled_product(x_TI, weight_OI)
            ways["input gradient, float8"] = _scaled_product(dy_TO, weight_OI.T.contiguous())
        rows[name] = {}
        for way, product in ways.items():
            seconds = median_seconds(product, device)
            rows[name][way] = {"seconds": seconds, "tflops": 2 * tokens * outputs * inputs / seconds / 1e12}
    found: dict[str, Any] = {"tokens": tokens, "products": rows}
    for kind in ("", ", float8") if has_fp8 else ("",):
        layer = sum(each[way + kind]["seconds"] for each in rows.values() for way in ("forward", "input gradient"))
        found[f"tokens_per_second_of_products_alone{kind}"] = tokens / (layer * shape.layers)
    return found


def _scaled_product(x_TI: torch.Tensor, weight_OI: torch.Tensor) -> Callable[[], torch.Tensor]:
    largest = torch.finfo(torch.float8_e4m3fn).max
    scales = [each.abs().amax(1, keepdim=True).float() / largest for each in (x_TI, weight_OI)]
    x, w = ((each / scale).to(torch.float8_e4m3fn) for each, scale in zip((x_TI, weight_OI), scales, strict=True))
    scale_x, scale_w = scales[0], scales[1].T.contiguous()
    return lambda: torch._scaled_mm(
        x, w.t(), scale_a=scale_x, scale_b=scale_w, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of `REPEATS` calls after two more, by the device's own clock, with cold caches."""
    cold = torch.empty(FLUSHED_BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(REPEATS + 2):
        cold.zero_()
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    work(sys.argv[sys.argv.index("--worker") + 1], {"rung": rung, "check": check, "ceiling": ceiling})
