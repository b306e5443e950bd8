"""What a run is: schema, loading, arithmetic and explanation. Torch-free; loads in milliseconds."""

from whet.recipe.checks import find_problems
from whet.recipe.load import dump_recipe, load_recipe, parse_recipe
from whet.recipe.problems import Finding
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe

__all__ = ["Finding", "Recipe", "dump_recipe", "find_problems", "load_recipe", "parse_recipe", "resolve"]
