"""`whet inspect` as a user types it: with a tokenizer alone, no weights anywhere."""

import json
import sys

import pytest
import typer
from inspections import write_recipe

from whet.cli import main


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    return write_recipe(tmp_path)


@pytest.fixture
def whet(monkeypatch, capsys):
    """The command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(main, "app", typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False))
        monkeypatch.setattr(sys, "argv", ["whet", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        return (caught.value.code, *capsys.readouterr())

    return run


def test_a_recipe_is_shown_and_its_page_lies_in_the_run_folder(whet, recipe, tmp_path):
    code, text, _ = whet(recipe, "--rows", 1)
    assert code == 0
    assert "[[The answer is 0.<|im_end|>]]" in text
    assert text.count("[[") == 1
    lines = [line.split() for line in text.splitlines()]
    assert ["held", "2", "0", "-", "1", "0", "0", "0"] in lines
    assert ["kept", "8"] in lines
    assert any(line[:3] == ["too", "long", "1"] and line[3].endswith("train.jsonl:9:") for line in lines)
    page = (tmp_path / "run" / "inspect.html").read_text(encoding="utf-8")
    assert text.splitlines()[-1] == f"page: {tmp_path}/run/inspect.html"
    assert "<mark" in page
    assert "The first optimizer step as it is trained" in page


def test_json_is_one_document_and_no_page_is_written_when_not_wanted(whet, recipe, tmp_path):
    code, text, _ = whet(recipe, "--json", "--no-html", "--rows", 2)
    found = json.loads(text)
    assert code == 0
    assert [each["name"] for each in found["sets"]] == ["train", "validation", "held", "evaluate train"]
    assert [row["number"] for row in found["rows"]] == [1, 2]
    assert "".join(token["text"] for token in found["rows"][0]["tokens"] if token["is_taught"]) == (
        "The answer is 0.<|im_end|>"
    )
    assert set(found["overlaps"]) == {"validation", "held", "evaluate train"}
    assert [each["num_documents"] for each in found["passes"]] == [2, 2]
    assert all(isinstance(name, str) for each in found["passes"] for name in each["documents"])
    assert not (tmp_path / "run").exists()


def test_the_page_goes_where_it_is_wanted(whet, recipe, tmp_path):
    assert whet(recipe, "--html", tmp_path / "pages" / "look.html")[0] == 0
    assert (tmp_path / "pages" / "look.html").is_file()
    assert not (tmp_path / "run").exists()


def test_settings_on_the_command_line_count(whet, recipe):
    text = whet(recipe, "data.max_length=4096", "--no-html")[1]
    assert ["kept", "9"] in [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("validation", "What is sold in May?"), ("held", "What is half of 48?"), ("evaluate train", "What is 24 + 24?")],
)
def test_every_set_can_be_shown(whet, recipe, name, shown):
    text = whet(recipe, "--no-html", "--set", name)[1]
    assert shown in text
    assert ("[[" in text) == (name == "validation")


def test_a_sample_is_shown_by_number_and_by_id(whet, recipe):
    by_number = json.loads(whet(recipe, "--json", "--no-html", "--row", 3)[1])["rows"]
    assert [row["number"] for row in by_number] == [3]
    by_id = json.loads(whet(recipe, "--json", "--no-html", "--row", by_number[0]["id"])[1])["rows"]
    assert by_id == by_number


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--row", "99", "give a number from 1 to 8"), ("--set", "test", "the sets are train, validation, held")],
)
def test_what_is_not_there_is_refused_with_what_is(whet, recipe, option, value, message):
    code, _, error = whet(recipe, "--no-html", option, value)
    assert code == 2
    assert message in error


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_a_terminal_is_coloured_unless_no_color_is_set(whet, recipe, monkeypatch, no_color, is_coloured):
    monkeypatch.setattr("whet.cli.inspect._is_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", no_color)
    text = whet(recipe, "--no-html")[1]
    # the codes themselves do not reach a stream that is no terminal; test_inspect_text.py looks at them
    assert ("[[The answer" in text) != is_coloured
    assert "The answer is 0." in text
