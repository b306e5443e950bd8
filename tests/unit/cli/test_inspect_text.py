"""In the terminal, taught tokens stand out with colour and without, and no data can steer the terminal."""

import re

import pytest
from inspections import inspection, sample, token

from whet.cli.inspect_text import inspection_text

ANSI = re.compile(r"\x1b\[[\d;]*m")
TOKENS = (
    token(0, "<|im_start|>", is_special=True, role="template"),
    token(1, "How many [bold]clips[/bold]?\n"),
    token(2, " 48", role="assistant", is_taught=True),
    token(3, "<|im_end|>", role="template", is_special=True, is_taught=True),
    token(4, "\n", role="template"),
    token(5, "next", role="assistant", is_taught=True),
)


def show(*, with_colour=False, with_ids=False, width=100, tokens=TOKENS, **changed):
    found = inspection(rows=(sample(*tokens),), **changed)
    return inspection_text(found, with_colour=with_colour, with_ids=with_ids, width=width)


def test_without_colour_taught_tokens_stand_in_brackets():
    text = show()
    assert text.endswith("<|im_start|>How many [bold]clips[/bold]?\n[[ 48<|im_end|>]]\n[[next]]\n")
    assert "\x1b" not in text


def test_with_colour_taught_tokens_are_green_and_underlined():
    text = show(with_colour=True)
    assert "[[" not in ANSI.sub("", text)
    assert ANSI.sub("", text).endswith("<|im_start|>How many [bold]clips[/bold]?\n 48<|im_end|>\nnext\n")
    styles = dict.fromkeys(re.findall(r"\x1b\[([\d;]*)m( 48|<\|im_end\|>|<\|im_start\|>|next)", text))
    codes = {piece: set(style.split(";")) for style, piece in styles}
    assert codes[" 48"] == codes["next"] == {"4", "32"}
    assert codes["<|im_end|>"] == {"4", "32", "7"}
    assert "32" not in codes["<|im_start|>"]
    assert "4" not in codes["<|im_start|>"]


def test_a_long_line_of_a_sample_is_not_broken():
    assert "x" * 500 in show(tokens=(token(0, "x" * 500),), width=60)


def test_with_ids_every_token_has_its_line():
    lines = show(with_ids=True).splitlines()[-7:]
    assert lines[0].split() == ["position", "id", "role", "taught", "text"]
    assert lines[3].split() == ["2", "7", "assistant", "taught", "'", "48'"]
    assert lines[5].split() == ["4", "7", "template", "'\\n'"]
    assert show(with_ids=True, tokens=(token(0, ""),)).splitlines()[-1].split() == ["0", "7", "user", "(goes", "on)"]


@pytest.mark.parametrize("with_colour", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
def test_data_cannot_steer_the_terminal(with_colour, with_ids):
    evil = "\x1b]0;title\x07\x1b[2J\u202e\x00\x9b31m"
    text = show(with_colour=with_colour, with_ids=with_ids, tokens=(token(0, evil, is_taught=True),), shown_set=evil)
    hostile = inspection_text(inspection(evil), with_colour=with_colour, with_ids=with_ids, width=100)
    for shown in (text, hostile):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ANSI.sub("", shown))
        assert "<U+001B>" in shown


def test_tables_and_bars_are_shown():
    lines = [line.split() for line in show().splitlines()]
    assert ["train", "4", "200", "50", "25.0", "%", "10", "40", "99"] in lines
    assert ["too", "long", "1", "x:", "x"] in lines
    assert ["0", "to", "49", "1", "#" * 13] in lines
    assert ["50", "to", "99", "3", "#" * 40] in lines
    assert ["x", "1,319", "0", "-", "80", "3", "5", "1"] in lines


def test_no_line_of_a_table_ends_in_spaces_or_is_too_wide():
    head = show(width=70).partition("x 1 (row-0)")[0].splitlines()
    assert all(line == line.rstrip() for line in head)
    assert max(map(len, head)) <= 70
