"""`whet serve` asked by the official `openai` client: the run's own answers, under its name, for who has the token."""

import re
import signal
import socket
import time

import openai
import pytest
import tiny_runs

from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond
from whet.recipe.schema import Adapter

TOKEN = "a-token-for-the-tests-0123456789"
QUESTIONS = ["How many clips did Natalia sell?", "Why \u00e9\u6771?\n\n  12 + 7"]
TIMEOUT_SECONDS = 240


@pytest.fixture
def run(tmp_path):
    base = tiny_runs.write_base(tmp_path / "base")
    run = tiny_runs.write_adapter_run(tmp_path / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder
    recipe = run / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8").replace("rows.jsonl}", "rows.jsonl, system: Count well.}")
    recipe.write_text(text, encoding="utf-8")
    return run


@pytest.fixture
def server(run, workplace):
    """The command in a process, once it listens: (address, process)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workplace.environment["MY_TOKEN"] = TOKEN
    log = workplace.folder / "server.log"
    with log.open("w") as file:
        process = workplace.start("serve", str(run), "--port", str(port), "--api-key-env", "MY_TOKEN", stdout=file)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while "answers at" not in (said := log.read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.05)
    assert re.search(rf"tiny answers at http://127\.0\.0\.1:{port}/v1 \(api_key: the token; model: tiny\)", said)
    assert TOKEN not in said
    return f"http://127.0.0.1:{port}/v1", process


def generated(run, question, system=None):
    responder = open_responder(Request(name=str(run)))
    (completion,) = respond(responder, [question], Decoding(max_new_tokens=12), system=system)
    return completion.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_openai_client_gets_the_run_s_answers(run, server, workplace):
    url, process = server
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"
        settings = {"model": "tiny", "temperature": 0, "max_tokens": 12}
        for question in QUESTIONS:
            asked = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(messages=asked, **settings)
            assert answer.choices[0].message.content == generated(run, question)
            assert answer.usage.completion_tokens <= 12
            with client.chat.completions.create(messages=asked, stream=True, **settings) as chunks:
                pieces = [chunk.choices[0].delta.content for chunk in chunks]
            assert "".join(piece or "" for piece in pieces) == answer.choices[0].message.content
            assert len(pieces) > 3, "it came piece by piece"
        with_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]
        answer = client.chat.completions.create(messages=with_system, **settings)
        assert answer.choices[0].message.content == generated(run, QUESTIONS[0], "Be brief.")
        warm = {"model": "tiny", "temperature": 5.0, "max_tokens": 12, "messages": asked}
        drawn = {client.chat.completions.create(seed=n, **warm).choices[0].message.content for n in range(3)}
        assert len(drawn) == 3, "the temperature of a request counts"
        with pytest.raises(openai.NotFoundError, match="there is no model 'another'; there is tiny"):
            client.chat.completions.create(messages=asked, model="another", max_tokens=3)
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.post("/../load_model", body={"model": "another"}, cast_to=object)
    with openai.OpenAI(base_url=url, api_key="a-wrong-token-0123456789", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="a wrong token"):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError, match="a wrong token"):
            stranger.chat.completions.create(messages=asked, **settings)
    code, said = workplace.run("serve", str(run), "--port", url.rpartition(":")[2].removesuffix("/v1"))
    assert code == 2 and "cannot listen there" in said
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=TIMEOUT_SECONDS) == 0
    left = list((workplace.folder / "cache" / "serve").iterdir())
    assert left == [], "the merged model is removed"
