"""`whet generate` and its twin `inference.py`: what is printed, what is written, what is refused."""

import importlib.util
import json
from pathlib import Path

import pytest
import tiny_runs
from typer.testing import CliRunner

from whet.cli.main import app
from whet.cli.verbs import register
from whet.errors import DataError, RecipeError
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(tiny_runs.write_base(tmp_path_factory.mktemp("generate") / "base"))


@pytest.fixture(scope="module")
def whet():
    register(app)

    def run(*arguments):
        result = CliRunner().invoke(app, ["generate", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return run


def answers(base, texts, **settings):
    decoding = Decoding(**({"max_new_tokens": 6} | settings))
    return [c.text for c in respond(open_responder(Request(name=base)), texts, decoding)]


def test_the_answer_alone_is_printed(whet, base):
    result = whet(base, "--prompt", "Why?", "--max-new-tokens", "6")
    assert result.stdout == answers(base, ["Why?"])[0] + "\n"
    assert result.stderr in ("", "note: 1 of 1 answers were cut off at their length limit\n")


def test_settings_of_sampling_reach_the_engine(whet, base):
    asked = ["--prompt", "Why?", "--max-new-tokens", "6", "--temperature", "0.9", "--top-k", "90", "--seed", "4"]
    text = answers(base, ["Why?"], temperature=0.9, top_k=90, seed=4, top_p=0.9)[0]
    assert whet(base, *asked, "--top-p", "0.9").stdout == text + "\n"
    assert text != answers(base, ["Why?"])[0]
    stop = text[2:4]
    assert whet(base, *asked, "--top-p", "0.9", "--stop", stop).stdout == text[: text.index(stop)] + "\n"


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_every_line_of_a_file_is_answered_into_a_file(whet, base, tmp_path, suffix):
    (tmp_path / "asked.txt").write_text("Why?\n\n  How many \u00e9?\nWhy?\n", encoding="utf-8")
    target = tmp_path / f"answers.{suffix}"
    result = whet(base, "--file", str(tmp_path / "asked.txt"), "--output", str(target), "--max-new-tokens", "6")
    assert result.stdout == f"3 answers in {target}\n"
    text = target.read_text(encoding="utf-8")
    rows = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    texts = ["Why?", "  How many \u00e9?", "Why?"]
    assert [row["prompt"] for row in rows] == texts
    assert [row["answer"] for row in rows] == answers(base, texts)
    assert {row["ended"] for row in rows} <= {"stop_token", "length"}


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ([], RecipeError, "either --prompt TEXT or --file FILE"),
        (["--prompt", "a", "--file", "b"], RecipeError, "either --prompt TEXT or --file FILE"),
        (["--file", "/no/such/file"], DataError, "cannot be read"),
        (["--file", "/dev/null"], DataError, "holds no prompt"),
        (["--prompt", "a", "--temperature", "-1"], RecipeError, "temperature must be 0"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(whet, arguments, error, said):
    with pytest.raises(error, match=said):
        whet("no-such-model", *arguments)


def shim():
    spec = importlib.util.spec_from_file_location("inference_shim", ROOT / "inference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guide_s_command_means_whet_generate():
    asked = ["--model_path", "models/merged", "--prompt", "- Solve: 120 miles in 2 hours?"]
    assert shim().whet_arguments(asked) == ["generate", "models/merged", "--prompt=- Solve: 120 miles in 2 hours?"]
    asked = {"config": "C", "model_path": "X", "input_file": "F", "output_file": "O", "max_new_tokens": "512",
             "temperature": "0", "top_p": "0.9"}  # fmt: skip
    expected = {"--recipe=C", "--file=F", "--output=O", "--max-new-tokens=512", "--temperature=0", "--top-p=0.9"}
    verb, folder, *options = shim().whet_arguments([word for k, v in asked.items() for word in (f"--{k}", v)])
    assert (verb, folder, set(options)) == ("generate", "X", expected)


def test_the_guide_s_command_answers(whet, base):
    arguments = shim().whet_arguments(["--model_path", base, "--prompt", "Why?", "--max_new_tokens", "6"])
    assert whet(*arguments[1:]).stdout == answers(base, ["Why?"])[0] + "\n"
