"""The report shows what the run folder holds, and nothing in the folder can act in the reader's browser."""

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from whet.errors import StorageError
from whet.report import write_report
from whet.report.visible import visible

pytestmark = pytest.mark.slow

HOSTILE = (
    "</script><script>alert(1)</script><ScRiPt src=//evil.example/x.js>"
    "\"><img src=x onerror=alert(1)>' onmouseover='alert(1)' </pre></style><style>*{display:none}</style>"
    '<a href="javascript:alert(1)">x</a><iframe src=//evil.example><svg onload=alert(1)><base href=//evil.example>'
    "<meta http-equiv=refresh content=0> {{7*7}} {% raw %} ${7*7} ]]> --> &lt;b&gt; =1+1 `x` "
    "\u202eevil\u2066 \x1b[31m \x00 \u200b \ufeff \U000e0041 end"
)
ALLOWED_TAGS = """
    html head meta title style body header main section article figure figcaption details summary div span p h1 h2 h3
    h4 ul li dl dt dd table thead tbody tr th td pre code strong svg desc line text circle polyline
"""


class Page(HTMLParser):
    """Collects tags, attributes and text the way a browser would."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "line", "circle", "polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data) -> None:
        self.text += data


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_hostile_strings_become_text_and_nothing_else(make_run) -> None:
    page = page_of(make_run(HOSTILE))
    assert {tag for tag, _ in page.tags} <= set(ALLOWED_TAGS.split())
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in {"href", "src", "action", "style"}]
        assert not any("javascript:" in (value or "") for value in attributes.values()), tag
    assert page.open == [] and page.unbalanced == []
    assert page.text.count("<script>alert(1)</script>") > 50, "the strings are shown, as text"
    assert page.text.count("{{7*7}}") == page.text.count("<script>alert(1)</script>"), "no template was run"


def test_hostile_strings_change_no_tag_of_the_page(make_run, tmp_path: Path) -> None:
    plain = page_of(make_run("plain"))
    shutil.rmtree(tmp_path / "demo-run")
    hostile = page_of(make_run(HOSTILE))
    # charts and structure are the same: data adds text, never an element or an attribute
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in hostile.tags] == [sorted(found) for _, found in plain.tags]


def test_invisible_and_direction_characters_are_written_out(make_run) -> None:
    text = write_report(make_run(HOSTILE)).read_text(encoding="utf-8")
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]", text
    )
    assert "&lt;U+202E&gt;evil&lt;U+2066&gt; &lt;U+001B&gt;[31m &lt;U+0000&gt;" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tab\tline\nend", "tab\tline\nend"),
        ("windows\r\nline", "windows\nline"),
        ("a\rb", "a<U+000D>b"),
        ("\ud800", "<U+D800>"),
        ("caf\u00e9 \u0639\u200c \U0001f469\u200d\U0001f4bb", "caf\u00e9 \u0639\u200c \U0001f469\u200d\U0001f4bb"),
        ("x" * 20_003, "x" * 20_000 + " ... (3 more characters)"),
    ],
)
def test_visible_keeps_what_can_be_read(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_page_forbids_scripts_and_network_by_policy_and_needs_neither(make_run) -> None:
    html = write_report(make_run()).read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'http-equiv="Content-Security-Policy" content="{policy}' in html
    assert not re.search(r"<script|https?://|url\(|@import|<link|<img", html)


def test_the_verdict_stands_first_with_its_counts(make_run) -> None:
    page = page_of(make_run())
    words = " ".join(page.text.split())
    assert words.index("Verdict Better on sums, 40 rows tuned answered 20 of 40 right") < words.index("Training")
    for found in ("base plain 25.0 % (15.0 % to 35.0 %)", "tuned plain 50.0 %", "+100.0", "second sentence"):
        assert found in words
    for found in ("whet train recipe.yaml", "whet compare demo-run", "12,345", "resumed plain", "1.00 GiB"):
        assert found in words


def test_where_the_time_went_is_said_and_listed(make_run) -> None:
    text = page_of(make_run()).text
    assert "31% waits " in text
    assert "Seconds of training" in text and "23.25" in text and "Seconds until the first step was done" in text


def test_without_a_comparison_the_report_makes_no_claim(make_run) -> None:
    folder = make_run()
    (folder / "evaluations" / "sums" / "comparison.json").unlink()
    words = " ".join(page_of(folder).text.split())
    assert "No comparison was made" in words
    assert "Better on" not in words


def test_a_run_that_only_just_started_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: young\n")
    words = " ".join(page_of(tmp_path).text.split())
    for found in (
        "No comparison was made",
        "No optimizer step is logged yet",
        "still running",
        "No account of the data",
    ):
        assert found in words


@pytest.mark.parametrize(
    "name",
    [
        "run_plan.json",
        "environment.json",
        "data.json",
        "ledger.json",
        "model.json",
        "summary.json",
        "metrics.jsonl",
        "recipe.yaml",
    ]
    + [f"evaluations/sums/{file}" for file in ("comparison.json", "base.jsonl", "tuned.jsonl", "tuned.summary.json")],
)
@pytest.mark.parametrize(
    "content", [None, b"[]", b"\xff\x00", b"[" * 100_000, b'{"train": 3, "verdict": [], "id": {}}']
)
def test_any_file_may_be_missing_or_damaged(make_run, name: str, content: bytes | None) -> None:
    path = make_run() / name
    path.unlink() if content is None else path.write_bytes(content)
    page = page_of(path.parents[name.count("/")])
    assert page.unbalanced == []
    is_json = name != "recipe.yaml" and content not in (None, b"") and not content.startswith(b'{"')
    if is_json:
        assert "Files that could not be read in full" in page.text
        assert path.name in page.text


def test_a_malformed_comparison_gives_no_verdict(make_run) -> None:
    folder = make_run()
    path = folder / "evaluations" / "sums" / "comparison.json"
    for change in (
        {"verdict": "amazing"},
        {"p_value": "small"},
        {"difference": {"low": 1}},
        {"num_rows": float("nan")},
    ):
        whole = json.loads(path.read_text())
        path.write_text(json.dumps(whole | change))
        page = page_of(folder)
        assert "no verdict is shown" in page.text and "No comparison was made" in page.text
        path.write_text(json.dumps(whole))


def test_twenty_thousand_steps_stay_under_a_megabyte(make_run) -> None:
    path = write_report(make_run(HOSTILE, num_steps=20_000))
    assert path.stat().st_size < 300_000
    for line in re.findall(r'<polyline[^>]* points="([^"]*)"', path.read_text(encoding="utf-8")):
        assert len(line.split()) <= 600


def test_numbers_that_are_not_numbers_are_left_out_of_the_charts(make_run) -> None:
    folder = make_run()
    bad = [{"loss": None}, {"loss": "1"}, {"loss": True}, {"loss": 1e308}, {"loss": 10**400}, {"loss": -1e299}]
    with (folder / "metrics.jsonl").open("a") as file:
        for i, change in enumerate(bad):
            file.write(json.dumps({"kind": "step", "step": 51 + i, **change}) + "\n")
        file.write('{"kind": "step", "step": 60, "loss": NaN}\n{"kind": "step", "step": 1e3}\n')
    html = write_report(folder).read_text(encoding="utf-8")
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', html)


def test_the_same_folder_gives_the_same_bytes(make_run) -> None:
    folder = make_run()
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_charts_can_be_read_aloud(make_run) -> None:
    html = write_report(make_run()).read_text(encoding="utf-8")
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for names in re.findall(r'aria-labelledby="([^"]+)"', html):
        assert set(names.split()) <= set(ids)
    assert html.count("<svg") == html.count('role="img"') == 9  # the loss twice: for wide screens and for phones
    assert "training loss from 2." in html
    assert "Numbers of this chart" in html


def test_the_legend_names_only_what_is_drawn(make_run) -> None:
    folder = make_run(num_steps=50)
    legend = re.compile(r'class="key (\w+)-key"')
    drawn = re.compile(r'<polyline class="(raw|smooth|thread)"')

    def shown() -> tuple[list[str], list[str]]:
        html = write_report(folder).read_text(encoding="utf-8")
        loss_chart = html[html.index('id="loss-title"') : html.index("Numbers of this chart")]
        return legend.findall(html), drawn.findall(loss_chart)

    assert shown() == (["raw", "smooth", "dots"], 2 * ["raw", "smooth", "thread"])
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines[:9] if '"step"' in line[:20]))
    assert shown() == (["smooth"], 2 * ["smooth"])


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(StorageError, match="no such folder"):
        write_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def words_of(folder: Path) -> str:
    """The words of the page, those of neighbouring cells apart."""
    text = write_report(folder).read_text(encoding="utf-8")
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text[text.index("<main>") :])).split())


def test_every_metric_stands_in_a_table_with_what_it_rests_on(make_run) -> None:
    words = words_of(make_run("x"))
    # verdict, difference, interval, p, adjusted p, what would have shown, base, tuned, rows
    numbers = "better +25.0 +15.0 to +35.0 0.002 0.004 12.5 25.0 % 50.0 % 38"
    assert f"answer_accuracy points, 2 rows without a score {numbers}" in words
    assert "seconds x seconds x, 2 rows without a score better -1.5 -1.6 to -1.4 0.002 0.004 0.125 0.25 -1.25" in words
    assert "no direction +30 +29.9 to +30.1 0.002 - - 0.25 30.25 38" in words
    assert "open x - +10.0 +0.0 to +20.0 0.004 25.0 % 35.0 % 38" in words
    assert "bleu x of the whole set, without an interval 12.5 12.5 +0" in words


def test_in_the_chart_of_differences_better_is_to_the_right_whichever_way_a_metric_counts(make_run) -> None:
    html = write_report(make_run()).read_text(encoding="utf-8")
    chart = html[html.index('id="differences-0-title"') :]
    accuracy, seconds, length = re.findall(r'class="estimate (\w+)" cx="([\d.]+)%"', chart)
    assert accuracy[0] == seconds[0] == "better" and length[0] == "even"
    assert float(accuracy[1]) > 75 and float(seconds[1]) > 75


def test_the_largest_changes_are_shown_with_both_texts_and_their_scores(make_run) -> None:
    words = words_of(make_run("x"))
    gains = words[words.index("Largest gains 10 rows, 2 shown") : words.index("Largest losses")]
    assert gains.index("row-6 x") < gains.index("row-2 x")
    assert "answer_accuracy: 0.0 % to 100.0 %" in gains
    assert gains.count("base says x") == gains.count("tuned says x") == 2
    assert "row-3 x / answer_accuracy: 100.0 % to 50.0 %" in words


def test_what_was_measured_while_training_has_a_chart_each_and_counts_have_none(make_run) -> None:
    html = write_report(make_run("x")).read_text(encoding="utf-8")
    shown = html[html.index("Measured while training") :]
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", shown) == ["sums/answer accuracy", "score x"]
    assert "num_rows" not in shown.split("<h2")[0]


def test_standard_benchmarks_stand_apart_with_their_own_errors(make_run) -> None:
    folder = make_run("x")
    words = words_of(folder)
    assert "Standard benchmarks, by lm-eval 0.4.9 x" in words
    assert "gsm8k x exact_match x 1,319 3.1 % +- 0.5 5.2 % +2.1 points +0.5 to +3.7 0.01" in words
    assert "x x - - - - - -" in words
    assert "Before and after: lm-eval" not in words
    (folder / "evaluations" / "lm-eval" / "results.json").write_text('{"tasks": 3, "notes": {}}')
    assert "Standard benchmarks" not in words_of(folder)


def test_a_lost_guard_stands_in_the_first_line(make_run) -> None:
    folder = make_run()
    assert "worse on the guard" not in words_of(folder)
    shutil.copytree(folder / "evaluations" / "sums", folder / "evaluations" / "talk")
    path = folder / "evaluations" / "talk" / "comparison.json"
    guard = {"dataset": "talk", "role": "guard", "verdict": "worse"}
    path.write_text(json.dumps(json.loads(path.read_text()) | guard))
    words = words_of(folder)
    assert "Verdict Better on sums plain, but worse on the guard set talk." in words
    assert "on talk, 40 rows, a guard: nothing may be lost here" in words


def test_a_comparison_of_an_earlier_version_is_shown_by_its_accuracy(make_run) -> None:
    folder = make_run()
    path = folder / "evaluations" / "sums" / "comparison.json"
    new = ("metrics", "categories", "gains", "setbacks", "role", "primary", "base_name", "tuned_name")
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name not in new})
    )
    words = words_of(folder)
    assert "Better on sums, 40 rows" in words
    assert "answer_accuracy points better +25.0 +15.0 to +35.0 0.002 0.002 - 25.0 % 50.0 % 40" in words
    assert "Only tuned is right" in words


def test_answers_that_are_not_judged_right_or_wrong_are_not_marked_so(make_run) -> None:
    folder = make_run()
    path = folder / "evaluations" / "sums" / "comparison.json"
    comparison = json.loads(path.read_text())
    comparison["metrics"] = comparison["metrics"][1:]
    path.write_text(json.dumps(comparison))
    page = page_of(folder)
    assert not [tag for tag, attributes in page.tags if (attributes.get("class") or "").startswith("mark")]
    assert "taken as the answer" not in page.text


def test_the_page_stays_below_a_megabyte_whatever_a_run_holds(make_run) -> None:
    folder = make_run("x" * 30_000, num_steps=20_000)
    page = write_report(folder)
    assert page.stat().st_size < 1_000_000
    assert "more characters)" in page.read_text(encoding="utf-8"), "texts were cut, not left out"


def test_answers_of_training_settings_and_packages_are_shown(make_run) -> None:
    text = write_report(make_run("plain")).read_text(encoding="utf-8")
    for heading in ("Answers while training", "Where every value came from", "All packages (2)"):
        assert heading in text
    assert "optim.lr plain" in text and "torch==2.13.0" in text


def test_what_was_foreseen_stands_beside_what_was_measured(make_run) -> None:
    folder = make_run("plain")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"predicted_memory_bytes": 2**31}))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "Estimate against measured" in text and "2.15 GB" in text and "1.07 GB" in text
