"""Run folder -> a short text for a pull request: verdict, what was measured, what it cost, and the commands.

Texts of a run are data here too: they are made visible, and what Markdown or HTML would act on is taken from them
(tags, links, pictures, mentions of people, tables that end early).
"""

from __future__ import annotations

import html
import re

from whet.report.facts import commands, facts, status_of, subtitle
from whet.report.run_folder import Evaluation, RunView
from whet.report.verdict_section import metric_row, metrics_of
from whet.verdict import overall
from whet.visible import spelled_out

_ACTIVE = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_CALLS = re.compile(r"@|#(?=\d)|:(?=//)|www(?=\.)|GH(?=-\d)", re.IGNORECASE)
_MOST_CHARACTERS = 500
_MOST_SETS = 12
_HEAD = ("metric", "verdict", "difference", "95 % interval", "p", "base", "tuned", "rows")


def render_markdown(run: RunView) -> str:
    """Verdict first; the same run folder gives the same text."""
    lines = [f"### {_plain(run.folder_name)}: {_plain(_headline(run))}", ""]
    about = [status_of(run), *subtitle(run)]
    lines += [f"Status: {_plain(' / '.join(about))}", ""]
    for evaluation in run.evaluations[:_MOST_SETS]:
        lines += _set(evaluation)
    found = facts(run)
    if found:
        lines += [
            "| measured | |",
            "|---|---|",
            *(f"| {_plain(name)} | {_plain(value)} |" for name, value in found),
            "",
        ]
    if run.incidents:
        lines += [f"{len(run.incidents):,} incidents, the last at step {run.incidents[-1].step:,}: "
                  f"{_plain(run.incidents[-1].text)}", ""]  # fmt: skip
    lines += ["```sh", *(spelled_out(line).replace("```", "'''") for line in commands(run).splitlines()), "```"]
    return "\n".join(lines) + "\n"


def _headline(run: RunView) -> str:
    compared = [each.comparison for each in run.evaluations if each.comparison]
    if not compared:
        return "not evaluated, so nothing is claimed"
    return overall(compared).sentence if len(compared) > 1 else compared[0].verdict


def _set(evaluation: Evaluation) -> list[str]:
    c = evaluation.comparison
    if c is None:
        return []
    role = {"guard": " (a guard)", "other": " (reported only)"}.get(c.role, "")
    lines = [
        f"**{_plain(evaluation.dataset)}**{role}: {_plain(c.verdict)}. {_plain(c.sentences[0]) if c.sentences else ''}"
    ]
    lines += ["", f"| {' | '.join(_HEAD)} |", "|---|---" + "|--:" * (len(_HEAD) - 2) + "|"]
    for metric in metrics_of(c):
        row = metric_row(metric)
        verdict, difference, interval, p_value, _, _, base, tuned, rows = row["cells"]
        cells = (f"{row['name']} {row['note']}", verdict, difference, interval, p_value, base, tuned, rows)
        lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
    return [*lines, ""]


def _plain(text: str) -> str:
    """One line that says what it says and does nothing."""
    flat = " ".join(spelled_out(str(text)[:_MOST_CHARACTERS]).split())
    escaped = _ACTIVE.sub(r"\\\g<0>", html.escape(flat, quote=False))
    # a site looks for people, issues and addresses after Markdown is done: a comment takes them apart
    return _CALLS.sub(r"\g<0><!-- -->", escaped)
