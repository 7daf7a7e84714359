"""Every recipe becomes, byte for byte, what llama.cpp's converter makes of it: goldens made by scripts/refresh-goldens.

No transformers here: configs and shapes are in the goldens, weights come from names and shapes.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from recipes import DATA, RECIPES, checkpoint, golden, write

from ggufkit.architectures import CATALOGUE, hf_architectures, names, spec_for
from ggufkit.checkpoints import Config, open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.execute import execute
from ggufkit.conversion.plan import ConversionPlan, complete, make_plan
from ggufkit.conversion.prediction import find_prediction
from ggufkit.conversion.tensors import _match, _patterns
from ggufkit.progress import silent

# Recipes whose config.json is one of transformers' own, so that absent keys have values.
DEFAULTING = [
    name for name, recipe in RECIPES.items() if recipe.shapes is None and "model_type" not in recipe.extra_config
]
# Other names of classes that have recipes under their own.
ALIASES: set[str] = set()
OUTTYPES = (OutputType.F32, OutputType.F16, OutputType.BF16, OutputType.Q8_0)


def convert(folder: Path, outtype: OutputType) -> tuple[ConversionPlan, GGUFReader]:
    """Convert without a tokenizer, of which tiny checkpoints have none."""
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        plan = make_plan(opened, spec, outtype, description={})
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


@pytest.mark.parametrize("name", DEFAULTING)
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
    stored: dict[str, set[str]] = {}
    for name in RECIPES:
        known = golden(name)
        config = Config(known["config"])
        spec = spec_for(config.architecture, config.model_type)
        shapes = {name: tuple(shape) for name, shape in known["shapes"].items()}
        as_blocks = find_prediction(spec, complete(config, spec), shapes, wanted=True)
        stored.setdefault(spec.name, set()).update(as_blocks.tensors)
    idle = []
    for spec in CATALOGUE:
        patterns = list(_patterns(spec))
        hit = {
            (found[1].sources, found[2] if "{e}" not in found[1].sources[0] else 0)
            for name in stored.get(spec.name, ())
            if (found := _match(names.stripped(name), patterns))
        }
        idle += [
            f"{spec.name}: {pattern.sources[pattern.place]}"
            for pattern in patterns
            if (pattern.sources, pattern.place) not in hit and pattern.rule is not None
        ]
    assert idle == []


def test_every_architecture_has_a_recipe() -> None:
    used = {name for recipe in RECIPES for name in golden(recipe)["config"]["architectures"]}
    assert set(hf_architectures()) - used - ALIASES == set()


def test_no_spec_is_changed_by_a_conversion(tmp_path: Path) -> None:
    """One process, every recipe, in two orders: the same plans, and a catalogue that looks as before."""
    before = repr(CATALOGUE)
    folders = {name: checkpoint(name, tmp_path / name) for name in RECIPES}

    def header(name: str) -> bytes:
        with open_checkpoint(folders[name]) as opened:
            spec = spec_for(opened.config.architecture, opened.config.model_type)
            return make_plan(opened, spec, OutputType.F16, description={}).layout.header

    forwards = {name: header(name) for name in RECIPES}
    assert {name: header(name) for name in reversed(RECIPES)} == forwards
    assert repr(CATALOGUE) == before


def test_no_golden_is_left_over() -> None:
    names_ = {path.stem for path in DATA.glob("*/*.json") if '"llama.cpp"' in path.read_text()[:20]}
    assert names_ == set(RECIPES)
