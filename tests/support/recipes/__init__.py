"""Recipes of tiny checkpoints, one module for each family, and the goldens made of them.

A module holds `RECIPES`, a dict from a name to a Recipe; `scripts/refresh-goldens` writes
`tests/data/<module>/<name>.json`.
"""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

from recipes._recipe import VOCABULARY, Recipe, decoder, write

__all__ = ["RECIPES", "VOCABULARY", "Recipe", "checkpoint", "decoder", "golden", "golden_path", "write"]

DATA = Path(__file__).parents[2] / "data"
RECIPES: dict[str, Recipe] = {}
_FAMILIES: dict[str, str] = {}

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        for _name, _recipe in importlib.import_module(f"recipes.{_module.name}").RECIPES.items():
            assert _name not in RECIPES, f"two recipes are called {_name}"
            RECIPES[_name] = _recipe
            _FAMILIES[_name] = _module.name


def golden_path(name: str) -> Path:
    return DATA / _FAMILIES[name] / f"{name}.json"


def golden(name: str) -> dict[str, Any]:
    """Load a recipe's golden: config, shapes of the checkpoint, and what llama.cpp's converter makes of it."""
    return json.loads(golden_path(name).read_text(encoding="utf-8"))


def checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of a recipe to `folder`, from its golden alone: without transformers, without tokenizer."""
    known = golden(name)
    return write(folder, known["config"], known["shapes"], RECIPES[name])
