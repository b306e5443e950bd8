"""The pages in a browser: `whet ui` draws curves and follows a run that grows, nothing that a run holds is run, and
nothing is asked of another machine. Skipped where no Chromium is installed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser

HOSTILE = "<img src=x onerror=document.title='PWNED'><script>document.title='PWNED'</script>"
CURVE_PIXELS = """[...document.querySelectorAll('canvas')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let number = 0;
  for (let i = 0; i < data.length; i += 4) {
    // blue well above red, or red well above blue: the colours of curves, not of axes
    if (data[i + 3] > 128 && Math.abs(data[i] - data[i + 2]) > 60) number += 1;
  }
  return number;
})"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed")
    with Browser(program, tmp_path / "profile") as found:
        found.look(1280, 900)
        yield found


def write_run(folder: Path, num_steps: int, name: str = "plain") -> Path:
    folder.mkdir(parents=True)
    settings = {
        "name": name,
        "output": "a",
        "optim": {"lr": num_steps / 1e6},
        "data": {"train": [{"source": "a.jsonl"}]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(settings))
    (folder / "run_plan.json").write_text('{"total_steps": 60}')
    write_steps(folder, 1, num_steps)
    answers = [{"step": step, "set": name, "id": name, "prompt": name, "text": f"{name} at {step}", "golds": [name],
                "is_correct": step > 10} for step in (10, 20)]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    (folder / "incidents.jsonl").write_text(json.dumps({"step": 3, "kind": "rollback", "text": name}) + "\n")
    return folder


def write_steps(folder: Path, first: int, last: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            line = {"kind": "step", "step": step, "loss": 3.0 / step, "lr": 1e-4, "grad_norm": 1.0 + step % 3,
                    "seconds": 0.5, "tokens_per_second": 900.0 + step % 7}  # fmt: skip
            file.write(json.dumps(line) + "\n")
        file.write(
            json.dumps({"kind": "eval", "step": last, "loss": 1.0, "sums/answer_accuracy": 0.5, "seconds": 1.0}) + "\n"
        )


def start_ui(workplace, folder: Path) -> str:
    """The address that `whet ui` prints."""
    process = workplace.start("ui", str(folder), "--port", "0")
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())
    assert found, process.poll()
    return found[0]


def test_the_page_draws_curves_and_follows_runs_that_grow(workplace, browser, tmp_path):
    first = write_run(tmp_path / "runs" / "first", 30)
    write_run(tmp_path / "runs" / "second", 40)
    url = start_ui(workplace, tmp_path / "runs")
    browser.open(url)
    browser.wait_for("document.querySelectorAll('tbody tr').length === 2")
    browser.evaluate("[...document.querySelectorAll('a')].find((link) => link.textContent === 'first').click()")
    browser.wait_for("document.querySelectorAll('canvas').length >= 5 && document.querySelector('.sample')")
    assert all(number > 50 for number in browser.evaluate(CURVE_PIXELS)), "a chart without a curve"
    assert "plain at 20" in browser.text() and "rollback" in browser.text()
    write_steps(first, 31, 50)
    browser.wait_for("document.querySelector('progress').title === 'step 50 of 60'")
    # two runs over each other
    browser.evaluate("location.hash = ''")
    browser.wait_for("document.querySelectorAll('input[type=checkbox]').length === 2")
    browser.evaluate("document.querySelectorAll('input[type=checkbox]').forEach((box) => box.click())")
    browser.evaluate("document.querySelector('button').click()")
    browser.wait_for("document.body.innerText.includes('optim.lr') && document.querySelectorAll('canvas').length >= 5")
    keys = browser.evaluate("[...document.querySelectorAll('.key.line')].slice(0, 2).map((key) => key.textContent)")
    assert sorted(keys) == ["first", "second"]
    assert browser.faults == []
    assert all(each.startswith((url, "data:")) for each in browser.requests)


def test_what_a_run_is_called_and_says_is_shown_and_not_run(workplace, browser, tmp_path):
    write_run(tmp_path / "runs" / HOSTILE.replace("/", "|"), 30, name=HOSTILE)
    url = start_ui(workplace, tmp_path / "runs")
    browser.open(url)
    browser.wait_for("document.querySelectorAll('tbody tr').length === 1")
    browser.evaluate("document.querySelector('tbody a').click()")
    browser.wait_for("document.querySelector('.sample') && document.querySelectorAll('canvas').length")
    assert f"{HOSTILE} at 20" in browser.text()
    browser.open(
        browser.evaluate("[...document.querySelectorAll('a')].find((a) => a.textContent === 'whole report').href")
    )
    browser.wait_for("document.body && document.body.innerText.includes('whet run report')")
    assert "PWNED" not in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('img, script').length") == 0
    assert browser.faults == [] and all(each.startswith((url, "data:")) for each in browser.requests)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True])
def test_no_page_is_wider_than_the_window(workplace, browser, tmp_path, width, is_dark):
    run = write_run(tmp_path / "runs" / ("a-very-long-name-" * 8).rstrip("-"), 30)
    code, said = workplace.run("report", str(run))
    assert code == 0, said
    url = start_ui(workplace, tmp_path / "runs")
    browser.look(width, 844, is_dark=is_dark)
    widest = "document.documentElement.scrollWidth"
    browser.open(url)
    browser.wait_for("document.querySelectorAll('tbody tr').length === 1")
    assert browser.evaluate(widest) <= width
    browser.evaluate("document.querySelector('tbody a').click()")
    browser.wait_for("document.querySelectorAll('canvas').length >= 5 && document.querySelector('.sample')")
    assert browser.evaluate(widest) <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(background) < 60) == is_dark
    shutil.copy(run / "report.html", tmp_path / "report.html")
    browser.open((tmp_path / "report.html").as_uri())
    browser.wait_for("document.querySelectorAll('svg polyline').length > 2")
    assert browser.evaluate(widest) <= width
