"""Targets of the fuzzer: recipes, overrides and other tools' YAML."""

from __future__ import annotations

from pathlib import Path

from fuzz_targets import Parser

from whet.recipe.importers import import_recipe
from whet.recipe.load import dump_recipe, load_recipe, parse_recipe
from whet.recipe.splits import parse_split, share_rows

BASE = """
version: 1
name: fuzz
output: runs/fuzz
data:
  train: [{source: rows.jsonl}]
"""


def recipe(scratch: Path) -> Parser:
    path = scratch / "recipe.yaml"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        loaded = load_recipe(path)
        assert parse_recipe(dump_recipe(loaded)) == loaded, "a recipe does not survive being written"
        sources = [*loaded.data.train, *loaded.data.validation]
        for source in sources:
            parse_split(source.split)
            share_rows(source, sources[0])

    return parse


def overrides(scratch: Path) -> Parser:
    def parse(data: bytes) -> None:
        # as the command line hands them over: bytes that are no UTF-8 as surrogates
        given = data.decode("utf-8", "surrogateescape").split("\n")
        parse_recipe(BASE, "recipe.yaml", given)

    return parse


def foreign_recipe(scratch: Path) -> Parser:
    def parse(data: bytes) -> None:
        imported = import_recipe(data.decode("utf-8", "replace"), "other.yaml", base_folder=scratch)
        imported.text("other.yaml")

    return parse
