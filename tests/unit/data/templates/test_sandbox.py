"""The child process of chat templates: hostile ones end soon, with the right error, and the parent goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from whet.data import limited_child, templates
from whet.data.templates import sandbox
from whet.data.templates.sandbox import ChatTemplate, Job, child_id, render_jobs
from whet.errors import RecipeError
from whet.recipe.schema import Data, Source
from whet.types import Message

pytestmark = pytest.mark.slow

HARMLESS = "{% for m in messages %}{{ m.content }}{% endfor %}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' if i + j else 'x' }}{% endfor %}{% endfor %}"


def _render(text, *, content="hello", max_seconds=0.5, num_jobs=1, tools=None, variables=None, is_prompt=False):
    template = ChatTemplate(name="the test's template", text=text, variables=variables or {}, max_seconds=max_seconds)
    messages = [{"role": "user", "content": content}]
    jobs = [
        Job(
            messages=messages,
            tools=tools,
            cuts=((1, is_prompt),),
            num_characters=len(content),
            origin=f"rows.jsonl:{number + 1}",
        )
        for number in range(num_jobs)
    ]
    return render_jobs(template, jobs)


def _is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LOOPS, r"did not finish within 0.5 s"),
        ("{{ 10 ** (10 ** 10) }}", "did not finish|MemoryError"),
        ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
        ("{% for m in messages %}{{ m.content * 10 ** 10 }}{% endfor %}", "MemoryError"),
        ("{{ messages[0].content * 10 ** 7 }}", "more than .* characters"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than .* characters"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "RecursionError|ended the process"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "is not for templates"),
        ("{{ cycler.__init__.__globals__ }}", "is not for templates"),
        ("{{ joiner.__init__.__globals__.os.popen('id').read() }}", "is not for templates"),
        ("{{ raise_exception.__globals__ }}", "is not for templates"),
        ("{{ messages.append(1) }}", "is not for templates|not safe"),
        ("{{ namespace(__class__=1) }}", "takes no attribute"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "takes no attribute"),
        ("{{ dict.fromkeys.__globals__ }}", "is not for templates"),
        ("{{ dict.__class__ }}", "is not for templates"),
        ("{{ ", "TemplateSyntaxError"),
        ("{% include '/etc/passwd' %}", "cannot be used|refuses"),
    ],
)  # fmt: skip
def test_a_hostile_template_ends_soon_with_an_error_and_no_child(text, why):
    _render(HARMLESS)
    before = child_id()
    started = time.monotonic()
    try:
        (answer,) = _render(text)
    except RecipeError as error:
        assert str(error).startswith("rows.jsonl:1: the test's template ")
        assert "`data.chat_template`" in str(error)
        message = str(error)
        assert child_id() is None and not _is_alive(before)
    else:
        assert isinstance(answer, str), "the template was rendered"
        message = answer + " refuses"
    assert re.search(why, message), message
    assert time.monotonic() - started < 5
    assert _render(HARMLESS) == [["hello"]]


@pytest.mark.slow
def test_a_model_whose_template_never_ends_is_refused_within_seconds_as_recipes_use_it(chatml):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=chatml.backend_tokenizer, eos_token=chatml.eos_token, chat_template=LOOPS
    )
    template = templates.template_for(tokenizer, Data(train=(Source(source="rows.jsonl"),)), [2])
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b", is_taught=True))
    started = time.monotonic()
    with pytest.raises(
        RecipeError, match=r"rows.jsonl:1: the tokenizer's own chat template did not finish within 2\.0 s"
    ):
        templates.render(template, turns, origin="rows.jsonl:1")
    assert time.monotonic() - started < 5


def test_jinjas_sources_of_chance_are_not_there():
    assert "'lipsum' is undefined" in _render("{{ lipsum() }}")[0]
    with pytest.raises(RecipeError, match="No filter named 'random'"):
        _render("{{ [1, 2] | random }}")


def test_the_row_at_which_a_template_hangs_is_named():
    text = "{% if messages[0].content == 'stop' %}" + LOOPS + "{% endif %}ok"
    template = ChatTemplate(name="the test's template", text=text, variables={}, max_seconds=0.5)
    jobs = [
        Job(
            messages=[{"role": "user", "content": word}],
            tools=None,
            cuts=((1, False),),
            num_characters=9,
            origin=f"rows.jsonl:{n}",
        )
        for n, word in enumerate(["a", "b", "stop", "c"])
    ]
    with pytest.raises(RecipeError, match=r"rows.jsonl:2: .* did not finish"):
        render_jobs(template, jobs)


def test_raise_exception_concerns_one_row():
    text = "{% if messages[0].content != 'hello' %}{{ raise_exception('no ' ~ messages[0].content) }}{% endif %}ok"
    before = child_id()
    assert _render(text) == [["ok"]]
    assert _render(text, content="bye") == ["no bye"]
    assert before is None or child_id() == before


def test_an_error_on_the_values_of_a_row_concerns_that_row():
    assert "TypeError" in _render("{{ messages[0].content + 1 }}")[0]
    assert "UndefinedError" in _render("{{ messages[0].nothing.more }}")[0]
    assert "ZeroDivisionError" in _render("{{ 1 / (messages | length - 1) }}")[0]


def test_a_killed_child_is_an_error_and_the_next_request_has_a_new_one(monkeypatch):
    _render(HARMLESS)
    exchange = limited_child.exchange

    def kill_first(process, request, *limits):
        if request:
            os.kill(process.pid, signal.SIGKILL)
        return exchange(process, request, *limits)

    monkeypatch.setattr(limited_child, "exchange", kill_first)
    with pytest.raises(RecipeError, match=r"rows.jsonl:1: the test's template ended the process that renders it"):
        _render(HARMLESS)
    monkeypatch.undo()
    assert _render(HARMLESS) == [["hello"]]


def test_a_child_that_died_between_requests_is_replaced():
    _render(HARMLESS)
    before = child_id()
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    assert _render(HARMLESS) == [["hello"]]
    assert child_id() != before


def test_a_stopped_child_does_not_hang_the_parent():
    _render(HARMLESS)
    os.kill(child_id(), signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(RecipeError, match="did not finish"):
        _render(HARMLESS, content="x" * 1_000_000, max_seconds=0.5)
    assert time.monotonic() - started < 3


def test_a_request_larger_than_a_pipe_holds_is_answered():
    content = "x" * 300_000
    assert _render(HARMLESS, content=content, num_jobs=8) == [[content]] * 8


def test_any_text_survives_the_way_there_and_back():
    content = '\n\u2028\x85\x00\u00e4\U0001f600\U000f0000"\\ud800\ud800'
    assert _render(HARMLESS, content=content) == [[content]]


def _run_python(text, timeout=20):
    source = Path(sandbox.__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text], env={**os.environ, "PYTHONPATH": str(source)}, text=True,
        capture_output=True, timeout=timeout,
    )  # fmt: skip


START = f"""
import os, signal, sys, time
from whet.data.templates.sandbox import ChatTemplate, Job, child_id, render_jobs
def render(text={HARMLESS!r}, seconds=30.0):
    template = ChatTemplate(name="t", text=text, variables={{}}, max_seconds=seconds)
    messages = [dict(role="user", content="a")]
    return render_jobs(template, [Job(messages=messages, tools=None, cuts=((1, False),), num_characters=9, origin="o")])
render()
print(child_id(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_child_ends_with_its_parent(end):
    done = _run_python(START + end)
    assert done.stderr == ""
    deadline = time.monotonic() + 5
    while _is_alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(int(done.stdout))


@pytest.mark.slow
def test_a_fork_has_a_child_of_its_own():
    done = _run_python(
        START + "before = child_id()\n"
        "if os.fork() == 0:\n"
        "    ok = render() == [['a']] and child_id() != before\n"
        "    sys.exit(0 if ok else 1)\n"
        "_, status = os.wait()\n"
        "assert status == 0 and render() == [['a']] and child_id() == before\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_child_knows_neither_the_users_environment_nor_his_libraries():
    process = subprocess.run(
        [sys.executable, "-I", "-S", str(sandbox._CHILD), *{str(Path(sandbox.jinja2.__file__).parents[1])}],
        input=b"", capture_output=True, env={}, check=True,
    )  # fmt: skip
    assert process.stdout == b"ready\n"
    _render(HARMLESS)
    environment = Path(f"/proc/{child_id()}/environ")
    if environment.exists():
        names = {item.partition(b"=")[0] for item in environment.read_bytes().split(b"\0")}
        assert names <= {b"", b"LD_LIBRARY_PATH", b"LC_CTYPE"}


def test_what_templates_may_use_is_there():
    text = (
        "{% generation %}{{ dict(a=1) | tojson }}{{ dict.fromkeys('b', 2) | tojson }}{% endgeneration %}"
        "{% set ns = namespace(n=1) %}{% set ns.n = 2 %}"
        "{{ ns.n }}{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ strftime_now('%d %b %Y') }}{{ bos_token }}{{ tools is none }}{{ documents is none }}"
    )
    assert _render(text, variables={"bos_token": "<s>"}) == [['{"a": 1}{"b": 2}20126 Jul 2024<s>TrueTrue']]


def test_json_is_written_as_transformers_writes_it():
    value = {"b": ["<&>'\"", "\u00e4"], "a": 1}
    text = "{{ tools[0] | tojson }}|{{ tools[0] | tojson(indent=2) }}|{{ tools[0] | tojson(separators=(',', ':')) }}"
    wanted = [json.dumps(value, ensure_ascii=False, **more) for more in ({}, {"indent": 2}, {"separators": (",", ":")})]
    assert _render(text, tools=[value]) == [["|".join(wanted)]]
