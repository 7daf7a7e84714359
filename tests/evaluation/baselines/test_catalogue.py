"""The list of baselines: names that work, recipes that are pinned, adapters that another Python can load."""

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

from ggufkit.errors import UsageError
from ggufkit.evaluation.baselines import runners
from ggufkit.evaluation.baselines.catalogue import baselines, named

FOLDER = Path(runners.__file__).parent


def test_all_that_the_issue_of_baselines_names_is_there():
    systems = {it.recipe.name for it in baselines().values()}
    assert {"transformers", "torchao", "bitsandbytes"} <= systems
    assert {"transformers-fp32", "transformers-bf16", "torch-int8", "torch-fp16", "torchao-int8"} <= set(baselines())
    assert {"bitsandbytes-int8", "bitsandbytes-nf4"} <= set(baselines())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["torch-int8"], ["torch-int8"]),
        (["bitsandbytes"], ["bitsandbytes-int8", "bitsandbytes-nf4"]),
        (["torch"], ["torch-int8", "torch-fp16"]),
        (["torch-fp16", "torch"], ["torch-fp16", "torch-int8"]),
    ],
)
def test_names_and_systems_choose(asked: list[str], expected: list[str]):
    assert [it.name for it in named(asked)] == expected


def test_all_means_all():
    assert [it.name for it in named(["all"])] == list(baselines())


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match="'torch-int9'") as raised:
        named(["torch-int8", "torch-int9"])
    assert "bitsandbytes-nf4" in str(raised.value.hint)


def test_every_recipe_is_pinned():
    for baseline in baselines().values():
        for requirement in baseline.recipe.requirements:
            assert "==" in requirement, f"{baseline.name}: {requirement} would be another version tomorrow"


def test_systems_of_one_name_have_one_recipe():
    recipes = {it.recipe.name: it.recipe for it in baselines().values()}
    for baseline in baselines().values():
        assert baseline.recipe == recipes[baseline.recipe.name]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_adapter_loads_where_there_is_only_python(path: Path):
    """At the top of a module only the standard library and its neighbours are imported; ours nowhere."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        roots = Counter(name.partition(".")[0] for name in names)
        assert "ggufkit" not in roots, f"line {node.lineno}"
        if node in tree.body:
            assert set(roots) <= sys.stdlib_module_names, f"line {node.lineno}"


def test_every_module_has_what_its_baselines_need():
    for baseline in baselines().values():
        tree = ast.parse((FOLDER / f"{baseline.module}.py").read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "load" in functions
        assert not baseline.prepares or "prepare" in functions, baseline.name
