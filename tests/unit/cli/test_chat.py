"""`whet chat` through a pipe: answers on standard output, remarks on standard error, commands between the questions."""

import io
import json
from dataclasses import dataclass

import pytest
import tiny_runs
from rich.console import Console
from typer.testing import CliRunner

from whet.cli import chat_screen
from whet.cli.chat_loop import Chat, Side, run_chat
from whet.cli.main import app
from whet.cli.verbs import register
from whet.errors import RecipeError
from whet.inference.chat import Conversation
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond
from whet.recipe.schema import Adapter

QUESTION = "How many clips?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    base = tiny_runs.write_base(folder / "base")
    return tiny_runs.write_adapter_run(folder / "run", base, Adapter(rank=4, alpha=8.0), size=0.3).folder


@pytest.fixture(scope="module")
def whet():
    register(app)

    def run(*arguments, asked):
        arguments = ["chat", *map(str, arguments), "--max-new-tokens", "6"]
        result = CliRunner().invoke(app, arguments, input=asked, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture(scope="module")
def answer(run):
    """What `whet generate` writes: name, text, system message -> answer."""

    def of(name, text, system=None, *, uses_base=False):
        responder = open_responder(Request(name=str(name), uses_base=uses_base))
        return respond(responder, [text], Decoding(max_new_tokens=6), system=system)[0].text

    return of


def test_every_line_is_a_question_and_its_answer_is_that_of_generate(whet, run, answer):
    other = "  Why \u00e9?"
    said = whet(run, asked=f"{QUESTION}\n\n/reset\n{other}\n")
    assert said.stdout == f"{answer(run, QUESTION)}\n{answer(run, other)}\n"


def test_base_and_tuned_answer_one_after_the_other_under_their_names(whet, run, answer):
    base, tuned = answer(run, QUESTION, uses_base=True), answer(run, QUESTION)
    assert base != tuned
    assert whet(run, "--against", "base", asked=QUESTION).stdout == f"base: {base}\ntiny: {tuned}\n"


def test_the_system_message_can_be_set_shown_and_taken_away(whet, run, answer):
    asked = f"/system\n/system Be brief.\n/system\n{QUESTION}\n/reset\n/system -\n{QUESTION}\n"
    result = whet(run, asked=asked)
    assert result.stdout == f"{answer(run, QUESTION, 'Be brief.')}\n{answer(run, QUESTION, '')}\n"
    assert "system message of tiny: none" in result.stderr and "system message of tiny: Be brief." in result.stderr
    assert whet(run, "--system", "Be brief.", asked=QUESTION).stdout == f"{answer(run, QUESTION, 'Be brief.')}\n"


def test_a_saved_conversation_holds_all_that_was_said_by_both(whet, run, tmp_path):
    file = tmp_path / "said.jsonl"
    asked = f"/system Be brief.\n{QUESTION}\nWhy?\n/save {file}\n/save {file}\n/save\n/save {tmp_path}/no\0\n"
    result = whet(run, "--against", "base", asked=asked.replace("\0", "/such/" + "x" * 300))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["model"] for row in rows] == ["base", "tiny"]
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["system", *["user", "assistant"] * 2]
        assert row["messages"][1]["content"] == QUESTION
        assert f"{row['model']}: {row['messages'][2]['content']}\n" in result.stdout
    assert "exists already" in result.stderr and "name a file: /save FILE" in result.stderr
    assert "could not be written" in result.stderr


def test_exit_leaves_and_what_is_no_command_is_not_asked(whet, run, answer):
    result = whet(run, asked=f"/unknown thing\n/exit\n{QUESTION}\n")
    assert result.stdout == "" and "no such command" in result.stderr
    assert whet(run, asked=" /usr what is it?\n").stdout == f"{answer(run, ' /usr what is it?')}\n"
    assert "/save FILE" in whet(run, asked="/help\n").stdout


def test_remarks_tell_what_happened_to_an_answer(whet, run):
    result = whet(run, "-v", asked=f"{QUESTION}\n{'clip ' * 400}\n")
    assert "first new one after" in result.stderr and "a second" in result.stderr
    assert "the question has" in result.stderr and "the model reads 256" in result.stderr
    assert "first new one" not in whet(run, asked=QUESTION).stderr


def test_a_full_window_is_told(run, capsys):
    responder = open_responder(Request(name=str(run)))
    conversation = Conversation(responder=responder, decoding=Decoding(max_new_tokens=40), system=None)
    chat = Chat(sides=[Side(name="tiny", conversation=conversation)], is_verbose=False, is_terminal=False)
    run_chat(chat, iter([QUESTION] * 6))
    told = capsys.readouterr().err
    assert "the window of 256 tokens is full: the oldest question left it" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--checkpoint", "best"], "has no checkpoint best"),
        (["BASE", "--checkpoint", "best"], "is no run, so it has no checkpoints"),
        (["BASE", "--against", "base"], "is no run or adapter folder"),
        (["./not-there"], "no such model folder"),
        (["not-there"], "no built-in model and no folder is called 'not-there'"),
        (["RUN", "--temperature", "-1"], "temperature must be 0"),
    ],
)
def test_what_cannot_answer_is_told(whet, run, arguments, said):
    names = {"RUN": str(run), "BASE": str(run.parent / "base")}
    with pytest.raises(RecipeError, match=said):
        whet(*(names.get(argument, argument) for argument in arguments), asked=QUESTION)


@dataclass
class Answering:
    """A conversation whose answer is known."""

    pieces: list[str]

    def ask(self, _question):
        yield from self.pieces


def test_columns_hold_both_answers_whole_and_without_control_characters():
    screen = io.StringIO()
    sides = [
        Side(name="base", conversation=Answering(["one ", "\x1b[31m", "two"])),
        Side(name="tuned", conversation=Answering(["[bold]three"])),
    ]
    chat_screen.show_in_columns(sides, QUESTION, Console(file=screen, width=100, force_terminal=False))
    lines = [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]
    assert lines[0].split() == ["base", "tuned"]
    assert lines[1].split("  ")[0] == "one <U+001B>[31mtwo" and lines[1].endswith("[bold]three")
    assert len(lines) == 2
