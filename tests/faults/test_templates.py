"""A hostile chat template came with a model: every verb that asks the model refuses it in seconds and runs nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tiny_runs

from whet.errors import RecipeError, WhetError
from whet.recipe.schema import Adapter

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' if i + j else 'x' }}{% endfor %}{% endfor %}"
HOSTILE = {
    "nested loops": LOOPS,
    "100 MB of text": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "gigabytes at once": "{{ 'a' * 10 ** 10 }}",
    "lipsum's globals": "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "cycler's globals": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "a class's subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a file": "{% include 'CANARY' %}",
}
MOST_SECONDS = 30.0
"""of processor time of this process and of its ended children: the template has 2 s"""


def uses(run: Path, target: Path) -> dict[str, object]:
    """What asks a model: name -> a call."""
    from whet.export import EXPORTS
    from whet.export.request import Request as Export
    from whet.export.served import write_served
    from whet.inference.decoding import Decoding
    from whet.inference.respond import Request, open_responder, respond

    def quiet(_: str) -> None:
        pass

    def export() -> object:
        return EXPORTS["ollama"](Export(run_folder=run, output=target / "ollama", is_proved=False, say=quiet))

    def serve() -> object:
        return write_served(target, str(run), keeps_adapter=False, say=quiet)

    def answer() -> object:
        responder = open_responder(Request(name=str(run)))
        return list(respond(responder, ["Why?"], Decoding(max_new_tokens=2), system=None))

    return {"generate and chat": answer, "serve": serve, "export to ollama": export}


@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_verb_renders_a_hostile_template_for_long_or_at_all(tmp_path, monkeypatch, name, outcome):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    canary = tmp_path / "canary"
    base = tiny_runs.write_base(tmp_path / "base")
    run = tiny_runs.write_adapter_run(tmp_path / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    text = HOSTILE[name].replace("CANARY", str(canary))
    num_changed = 0
    for folder in (base, run):
        if (folder / "tokenizer_config.json").is_file():
            path = folder / "tokenizer_config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(config | {"chat_template": text}), encoding="utf-8")
            (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
            num_changed += 1
    assert num_changed
    held = {}
    for use, call in uses(run, tmp_path).items():
        begun = time.process_time()
        try:
            call()
            held[use] = False
        except WhetError as error:
            named = isinstance(error, RecipeError) or "template" in str(error)
            held[use] = named and time.process_time() - begun < MOST_SECONDS and not canary.exists()
    outcome(
        fault="A chat template that loops, fills memory or reaches for Python", group="security", tries=len(held),
        held=sum(held.values()), note="refused in generate, chat, serve and the export to Ollama",
    )  # fmt: skip
    assert all(held.values()), held
