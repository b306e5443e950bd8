"""Names and files hold nothing that steers a terminal, ends a path or is too long for one."""

import pytest

from whet.errors import RecipeError
from whet.recipe import parse_recipe

BASE = 'name: "{name}"\noutput: "{output}"\nmodel: {{id: "{model}"}}\ndata:\n  train: [{{source: "{source}"}}]\n'
GOOD = {"name": "a run \u00e9\u6771", "output": "runs/a b", "model": "tiny/model", "source": "rows.jsonl"}


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("evil", ["\\0", "\\e[2J", "\\n", "\\r", "\\u202e", "\\x07"])
def test_control_and_direction_characters_are_refused_in_names(key, evil):
    assert parse_recipe(BASE.format(**GOOD)).name == GOOD["name"]
    with pytest.raises(RecipeError, match=r"holds a control or invisible character \(found .*<U\+") as caught:
        parse_recipe(BASE.format(**GOOD | {key: f"a{evil}b.jsonl"}))
    assert "\x1b" not in str(caught.value) and "\0" not in str(caught.value)


def test_text_for_the_model_may_hold_anything():
    text = BASE.format(**GOOD) + '  template: plain\n  prompt: "a\\e {question}\\n"\n'
    assert parse_recipe(text).data.prompt == "a\x1b {question}\n"


@pytest.mark.parametrize(("key", "most"), [("name", 200), ("output", 4000), ("source", 4000)])
def test_a_name_has_a_length_that_a_file_system_takes(key, most):
    ending = ".jsonl" if key == "source" else ""
    parse_recipe(BASE.format(**GOOD | {key: "x" * (most - len(ending)) + ending}))
    with pytest.raises(RecipeError, match=f"{key}: is longer than {most:,} characters"):
        parse_recipe(BASE.format(**GOOD | {key: "x" * (most + 1 - len(ending)) + ending}))


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "..\\\\x", " . "])
def test_a_set_cannot_be_written_outside_its_folder(name):
    held_out = f'evaluate: [{{name: "{name}", source: {{source: other.jsonl}}}}]\n'
    with pytest.raises(RecipeError, match="must be usable as a file name"):
        parse_recipe(BASE.format(**GOOD) + held_out)
