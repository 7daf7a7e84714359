"""Every recipe becomes, byte for byte, what llama.cpp's converter makes of it: goldens made by scripts/refresh-goldens.

No transformers here: configs and shapes are in the goldens, weights come from names and shapes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from recipes import DATA, RECIPES, checkpoint, golden, write

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.execute import execute
from ggufkit.conversion.plan import ConversionPlan, make_plan
from ggufkit.progress import silent

OUTTYPES = (OutputType.F32, OutputType.F16, OutputType.BF16, OutputType.Q8_0)


def convert(folder: Path, outtype: OutputType) -> tuple[ConversionPlan, GGUFReader]:
    """Convert without a tokenizer, of which tiny checkpoints have none."""
    with open_checkpoint(folder) as opened:
        plan = make_plan(opened, spec_for(opened.config.architecture), outtype, description={})
        output = folder / f"{outtype}.gguf"
        output.touch()
        execute(plan, output, threads=1, progress=silent)
    return plan, GGUFReader(output)


def fields(reader: GGUFReader) -> dict[str, Any]:
    return {
        key: [[kind.name for kind in field.types], field.contents()]
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "general.", "tokenizer."))
    }


@pytest.mark.parametrize("name", RECIPES)
def test_equals_llama_cpp(name: str, tmp_path: Path) -> None:
    recipe, expected = RECIPES[name], golden(name)
    folder = checkpoint(name, tmp_path)
    for place, outtype in enumerate(OUTTYPES):
        plan, reader = convert(folder, outtype)
        found = {
            tensor.name: [
                tensor.shape.tolist()[::-1],
                f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]}",
            ]
            for tensor in reader.tensors
        }
        if recipe.no_golden is None:
            tensors = {
                key: [entry[0], entry[min(place + 1, len(entry) - 1)]] for key, entry in expected["tensors"].items()
            }
            assert unexplained(found, recipe.explained) == unexplained(tensors, recipe.explained)
            assert unexplained(fields(reader), recipe.explained) == unexplained(expected["metadata"], recipe.explained)
            assert plan.spec.name == expected["architecture"]
    assert [warning for warning in plan.warnings if not any(part in warning for part in recipe.warns)] == []
    assert [part for part in recipe.warns if not any(part in warning for warning in plan.warnings)] == []


def unexplained(values: dict[str, Any], explained: Any) -> dict[str, Any]:
    return {key: value for key, value in sorted(values.items()) if key not in explained}


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].shapes is None])
def test_what_transformers_defaults_need_not_be_written(name: str, tmp_path: Path) -> None:
    """A config.json without the keys of which transformers takes the same values anyway makes the same file."""
    known = golden(name)
    shorter = {key: value for key, value in known["config"].items() if key not in known["defaulted"]}
    whole, _ = convert(checkpoint(name, tmp_path / "whole"), OutputType.F16)
    plan, _ = convert(write(tmp_path / "shorter", shorter, known["shapes"], RECIPES[name]), OutputType.F16)
    assert [(t.name, t.shape, t.type) for t in plan.layout.tensors] == [
        (t.name, t.shape, t.type) for t in whole.layout.tensors
    ]
    assert plan.layout.header == whole.layout.header


def test_every_rule_is_hit_by_some_recipe() -> None:
    """A rule that no checkpoint exercises is a guess."""


def test_no_golden_is_left_over() -> None:
    families = {path.parent.name for path in DATA.glob("*/*.json")}
    names = {path.stem for path in DATA.glob("*/*.json") if "llama.cpp" in json.loads(path.read_text())}
    assert names == set(RECIPES)
    assert families
