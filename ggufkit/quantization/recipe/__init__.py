"""Recipes: which type every tensor of a model gets, as files that people share."""

from ggufkit.quantization.recipe.apply import Applied, apply
from ggufkit.quantization.recipe.extract import hash_file, layout_hash, matrices, recipe_of
from ggufkit.quantization.recipe.file import parse, read, text, to_json
from ggufkit.quantization.recipe.recipe import SCHEMA_VERSION, Recipe, RecipeText, Role

__all__ = [
    "SCHEMA_VERSION",
    "Applied",
    "Recipe",
    "RecipeText",
    "Role",
    "apply",
    "hash_file",
    "layout_hash",
    "matrices",
    "parse",
    "read",
    "recipe_of",
    "text",
    "to_json",
]
