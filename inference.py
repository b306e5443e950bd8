"""`python inference.py --model_path FOLDER --prompt TEXT` is `whet generate FOLDER --prompt TEXT`.

The folder may be a run, a merged model or an adapter; of an adapter without a recipe, `--config RECIPE` names base and
template. Other than scripts of this name elsewhere, it answers greedily unless told `--temperature`, asks by the
model's template, and prints the answer without the question.
"""

from __future__ import annotations

import argparse
import sys

from whet.cli.main import main

_PASSED_ON = {
    "prompt": "prompt", "input_text": "prompt", "input_file": "file", "output_file": "output", "config": "recipe",
    "base_model": "base-model", "max_new_tokens": "max-new-tokens", "temperature": "temperature", "top_p": "top-p",
    "system": "system",
}  # fmt: skip


def whet_arguments(arguments: list[str]) -> list[str]:
    """The arguments of the command `whet` that mean the same."""
    parser = argparse.ArgumentParser(prog="inference.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model_path", required=True, metavar="FOLDER", help="run, merged model or adapter; a hub id")
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask")
    parser.add_argument("--input_text", metavar="TEXT", help="the same as --prompt")
    parser.add_argument("--input_file", metavar="FILE", help="prompts, one a line")
    parser.add_argument("--output_file", metavar="FILE", help="answers as JSON")
    parser.add_argument("--config", metavar="RECIPE", help="recipe (or another tool's YAML) of base and template")
    parser.add_argument("--base_model", metavar="MODEL", help="base of an adapter folder")
    parser.add_argument("--max_new_tokens", metavar="N", help="longest answer, in tokens")
    parser.add_argument("--temperature", metavar="T", help="0 (default): greedy")
    parser.add_argument("--top_p", metavar="P", help="with a temperature: sample among the most probable tokens")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    known = vars(parser.parse_args(arguments))
    # one word each: a prompt that begins with a dash is no option
    options = [f"--{name}={known[key]}" for key, name in _PASSED_ON.items() if known[key] is not None]
    return ["generate", known["model_path"], *options]


if __name__ == "__main__":
    sys.argv[1:] = whet_arguments(sys.argv[1:])
    main()
