"""What `whet watch` shows: one view of a run for a terminal, and its news as plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whet.report.charts import Point, label_of, smooth
from whet.report.follow import Follower, clock, seconds_left, tokens_per_second
from whet.report.metrics_log import EvalPoint, Event
from whet.report.run_folder import IncidentLine
from whet.report.terminal_chart import draw
from whet.visible import spelled_out

if TYPE_CHECKING:
    from rich.console import Console

    from whet.report.live_samples import RowSamples
    from whet.report.run_list import State

_STYLES = {"": "", "axis": "dim", "line": "cyan", "dots": "yellow"}
_STATE_STYLES = {"running": "bold green", "finished": "bold green", "interrupted": "bold yellow", "stopped": "bold red"}
_NUM_EVENTS = 3
_FEWEST_SMOOTHED = 10
_WIDEST = 160


def view(follower: Follower, state: State, console: Console, *, num_rows: int | None) -> RenderableType:
    """The run in at most `num_rows` rows; None: as many as it takes. Texts of rows and models steer nothing."""
    width = min(console.width, _WIDEST)
    is_ascii = not (console.encoding or "").lower().startswith("utf")
    below = [*_facts(follower), *_answers(follower.rows, width), *_incidents(follower, width)]
    room = 40 if num_rows is None else num_rows
    num_small = 6 if room >= 34 and width >= 60 else 0
    num_chart = max(4, min(14, room - len(below) - (num_small + 3 if num_small else 0) - 6))
    parts: list[RenderableType] = [_head(follower, state, width, is_ascii=is_ascii), Text()]
    parts += _loss_chart(follower, width, num_chart, is_ascii=is_ascii)
    if num_small:
        parts += _small_charts(follower, width, num_small, is_ascii=is_ascii)
    return Group(*parts, *below)


def _head(follower: Follower, state: State, width: int, *, is_ascii: bool) -> Text:
    steps, total = follower.log.steps, follower.total_steps
    done = steps[-1].step if steps else 0
    head = Text.assemble((_one_line(follower.folder.resolve().name, width // 3), "bold"), "  ",
                         (state, _STATE_STYLES[state]), f"  step {done:,}")  # fmt: skip
    if total:
        head.append(f" of {total:,}  ")
        num_cells = max(10, min(40, width - head.cell_len - 20))
        num_full = min(num_cells, num_cells * done // total)
        full, empty = ("#", ".") if is_ascii else ("\u2588", "\u2591")
        head.append(full * num_full, "cyan").append(empty * (num_cells - num_full), "dim")
    left = seconds_left(follower.log, total) if state == "running" else None
    if left is not None:
        head.append(f"  {clock(left)} left")
    return head


def _loss_chart(follower: Follower, width: int, height: int, *, is_ascii: bool) -> list[Text]:
    losses = [(float(point.step), point.loss) for point in follower.log.steps if point.loss is not None]
    measured = [(float(point.step), point.loss) for point in follower.log.evals if point.loss is not None]
    if not losses:
        return [Text("no step is logged yet", "dim")]
    title = Text.assemble("loss  ", ("training", "cyan"), f" {losses[-1][1]:.4f}")
    if measured:
        title.append("  validation", "yellow").append(f" {measured[-1][1]:.4f}")
        title.append(f"  (lowest {min(value for _, value in measured):.4f})", "dim")
    return [title, *_chart(losses, measured, width, height, is_ascii=is_ascii)]


def _chart(line: list[Point], dots: list[Point], width: int, height: int, *, is_ascii: bool) -> list[Text]:
    if len(line) >= _FEWEST_SMOOTHED:
        line = smooth(line, max(3, len(line) // 30))
    rows = draw(line, dots, width=width, height=height, is_ascii=is_ascii)
    return [Text.assemble(*((piece.text, _STYLES[piece.style]) for piece in row)) for row in rows]


def _small_charts(follower: Follower, width: int, height: int, *, is_ascii: bool) -> list[RenderableType]:
    """Speed and one of what was measured while training, else the learning rate."""
    steps = follower.log.steps
    curves: list[tuple[str, list[Point], list[Point]]] = [
        ("tokens/s", [(float(p.step), p.tokens_per_second) for p in steps if p.tokens_per_second is not None], [])
    ]
    names = [name for name in _measured_names(follower.log.evals) if name != "loss"]
    if names:
        found = [(float(p.step), p.values[names[0]]) for p in follower.log.evals if names[0] in p.values]
        curves.append((names[0], found, found))
    else:
        curves.append(("learning rate", [(float(p.step), p.lr) for p in steps if p.lr is not None], []))
    table = Table.grid(padding=(0, 2))
    drawn = [
        Group(Text(_one_line(name, width // 2 - 4)), *_chart(line, dots, width // 2 - 3, height, is_ascii=is_ascii))
        for name, line, dots in curves
        if line
    ]
    table.add_row(*drawn)
    return [Text(), table] if drawn else []


def _measured_names(evals: Sequence[EvalPoint]) -> list[str]:
    return list(dict.fromkeys(name for point in evals for name in point.values))


def _facts(follower: Follower) -> list[Text]:
    steps, summary = follower.log.steps, follower.summary
    facts: list[str] = []
    if (rate := tokens_per_second(steps)) is not None:
        facts.append(f"{rate:,.0f} tokens/s")
    facts += [f"{name.replace('_', ' ')} {amount}" for name, amount in _machine(follower)]
    if steps and steps[-1].lr is not None:
        facts.append(f"learning rate {steps[-1].lr:.3g}")
    if steps and steps[-1].grad_norm is not None:
        facts.append(f"gradient norm {steps[-1].grad_norm:.3g}")
    if follower.log.evals:
        last = follower.log.evals[-1]
        facts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in last.values.items() if name != "loss"][:4]
    if isinstance(where := summary.get("bottleneck"), str) and where:
        facts.append(where)
    return [Text(), Text(spelled_out("; ".join(facts)))] if facts else []


def _machine(follower: Follower) -> list[tuple[str, str]]:
    """Memory and utilisation as the last line has them; else the peak of the summary, or what the plan foresaw."""
    steps = follower.log.steps
    if steps and steps[-1].machine:
        return [
            (name.removesuffix("_bytes"), f"{value / 2**30:.2f} GiB" if name.endswith("_bytes") else label_of(value))
            for name, value in steps[-1].machine.items()
        ][:6]
    for document, key, words in (
        (follower.summary, "peak_memory_bytes", "peak memory"),
        (follower.plan, "predicted_memory_bytes", "memory foreseen"),
    ):
        if isinstance(value := document.get(key), int):
            return [(words, f"{value / 2**30:.2f} GiB")]
    return []


def _answers(rows: Sequence[RowSamples], width: int) -> list[Text]:
    """The newest answers, one row of each set at least."""
    if not rows:
        return []
    newest = max(row.last.step for row in rows)
    found = [row.last for row in rows if row.last.step == newest][:3]
    lines = [Text(), Text(f"answers after step {newest:,}", "bold")]
    for sample in found:
        mark = ("right", "green") if sample.is_correct else ("wrong", "red")
        lines.append(Text.assemble(mark, "  ", (_one_line(f"{sample.set}: {sample.prompt}", width - 8), "dim")))
        lines.append(Text(f"       {_one_line(sample.text, width - 8)}"))
    return lines


def _incidents(follower: Follower, width: int) -> list[Text]:
    told = [(each.step, _of_step(each), "red") for each in follower.incidents]
    told += [(each.step, _of_step(each), "") for each in follower.events]
    if not told:
        return []
    head = f"incidents: {len(follower.incidents):,}" if follower.incidents else "events"
    last = sorted(told, key=lambda each: each[0])[-_NUM_EVENTS:]
    return [
        Text(),
        Text(head, "bold"),
        *(Text(_one_line(text, width), style) for _, text, style in last),
    ]


def _of_step(told: IncidentLine | Event) -> str:
    """With its step in front, unless the sentence begins with it."""
    head = f"step {told.step}"
    return told.text if told.text.startswith(head) else f"{head}: {told.text}"


def _one_line(text: str, width: int) -> str:
    """Without line breaks, cut to `width` characters."""
    flat = " ".join(spelled_out(text[: 4 * width]).split())
    return flat if len(flat) <= width else flat[: max(0, width - 3)] + "..."


class News:
    """What has come since the last look, as sentences; of steps only so many that a long run fills no log."""

    def __init__(self, *, num_lines: int) -> None:
        self._num_lines = num_lines
        self._step = self._eval = 0
        self._num_incidents = self._num_events = 0

    def since(self, follower: Follower) -> Iterator[str]:
        log, total = follower.log, follower.total_steps
        last = log.steps[-1] if log.steps else None
        if last is not None and last.step < self._step:
            self._step = self._eval = self._num_incidents = self._num_events = 0  # the log was taken back
        every = max(1, (total or 0) // self._num_lines)
        if last is not None and (self._step == 0 or last.step // every > self._step // every or last.step == total):
            if last.step != self._step:
                left = seconds_left(log, total)
                rate = tokens_per_second(log.steps)
                yield "  ".join(filter(None, (
                    f"step {last.step:,}" + (f" of {total:,}" if total else ""),
                    f"loss {last.loss:.4f}" if last.loss is not None else "",
                    f"{rate:,.0f} tokens/s" if rate is not None else "",
                    f"{clock(left)} left" if left is not None else "",
                )))  # fmt: skip
            self._step = last.step
        for point in log.evals:
            if point.step > self._eval:
                yield f"step {point.step:,}  " + "  ".join(
                    f"{name} {value:.4f}" for name, value in point.values.items()
                )
                self._eval = point.step
        for incident in follower.incidents[self._num_incidents :]:
            yield f"incident: {_one_line(_of_step(incident), 300)}"
        self._num_incidents = len(follower.incidents)
        for event in follower.events[self._num_events :]:
            yield _one_line(_of_step(event), 300)
        self._num_events = len(follower.events)
