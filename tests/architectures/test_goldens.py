"""Every recipe becomes, byte for byte, what llama.cpp's converter makes of it: goldens made by scripts/refresh-goldens.

No transformers here: configs and shapes are in the goldens, weights come from names and shapes.
"""

import re
from pathlib import Path

import pytest
from comparison import convert, differences
from recipes import DATA, RECIPES, checkpoint, golden, write

from ggufkit.architectures import CATALOGUE, hf_architectures, names, spec_for
from ggufkit.checkpoints import Config, open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.plan import complete, make_plan
from ggufkit.conversion.prediction import find_prediction
from ggufkit.conversion.tensors import _match, _patterns

# Recipes whose config.json is one of transformers' own, so that absent keys have values.
DEFAULTING = [
    name for name, recipe in RECIPES.items() if recipe.shapes is None and "model_type" not in recipe.extra_config
]
# Other names of classes that have recipes under their own.
ALIASES: set[str] = set()


@pytest.mark.parametrize("name", RECIPES)
def test_equals_llama_cpp(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    folder = checkpoint(name, tmp_path)
    assert differences(name, folder) == {}
    warnings = convert(folder, OutputType.F16)[0].warnings
    assert [warning for warning in warnings if not any(part in warning for part in recipe.warns)] == []
    assert [part for part in recipe.warns if not any(part in warning for warning in warnings)] == []


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


# llm-compressor's names for the experts that Mixtral and MiniMax M2 call w1, w2 and w3.
RENAMED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@pytest.mark.parametrize("name", ["mixtral", "minimax-m2"])
def test_experts_may_have_the_names_that_llm_compressor_gives_them(name: str, tmp_path: Path) -> None:
    """llama.cpp's converter does not know them, so it is asked about the same tensors by their own names."""
    folder = checkpoint(name, tmp_path)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = re.sub(rb"\.(w[123])\.", lambda found: f".{RENAMED[found[1].decode()]}.".encode(), content[8:end])
    assert len(header) > end - 8
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    assert differences(name, folder) == {}


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
    given_by_others = tuple(f"block_sparse_moe.experts.{{e}}.{name}" for name in RENAMED.values())
    assert [rule for rule in idle if not rule.endswith(given_by_others)] == []


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
