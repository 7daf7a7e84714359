"""Recipes applied: the same file comes back, from our command and from llama-quantize; other models are told apart."""

import subprocess
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import find
from ggufkit.quantization import recipe
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.recipe import Recipe
from ggufkit.quantization.source import read_model

pytestmark = pytest.mark.engine


def applied(found: Recipe, source: Path, options: QuantizeOptions | None = None) -> recipe.Applied:
    return recipe.apply(found, read_model(source), options or QuantizeOptions())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    tiny_gguf.write_model(folder / "model.gguf")
    tiny_gguf.write_imatrix(folder / "imatrix.gguf")
    tiny_gguf.write_model(folder / "odd.gguf", feed_forward=288)
    tiny_gguf.write_model(folder / "deep.gguf", blocks=3)
    return folder


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "kind"), [("model", "Q4_K_M"), ("model", "IQ4_XS"), ("model", "Q8_0"), ("odd", "Q4_K_M")]
)
def test_the_recipe_of_a_file_makes_that_file_again(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    source = folder / f"{name}.gguf"
    options = QuantizeOptions(threads=1, imatrix=folder / "imatrix.gguf" if name == "model" else None)
    preset, ours, theirs, file = (tmp_path / part for part in ("preset.gguf", "ours.gguf", "theirs.gguf", "a.recipe"))
    quantize(source, kind, preset, options)
    file.write_text(recipe.text(recipe.recipe_of(preset)))
    again = applied(recipe.read(file), source, options)
    assert not again.notes
    result = quantize(source, again.type, ours, again.options)
    assert ours.read_bytes() == preset.read_bytes()
    assert not result.fallbacks  # what the preset fell back on is what the recipe asks for
    matrix = ["--imatrix", str(options.imatrix)] if options.imatrix else []
    command = [str(find().tool("llama-quantize")), *matrix, "--tensor-type-file", str(file), str(source), str(theirs)]
    subprocess.run([*command, kind, "1"], check=True, capture_output=True)
    assert theirs.read_bytes() == preset.read_bytes()


def test_other_models_of_the_architecture_are_told_apart(folder: Path, tmp_path: Path) -> None:
    made = {t.name: TensorType.Q5_K for t in read_header(folder / "model.gguf").tensors if len(t.shape) > 1}
    found = Recipe(
        tensors={**made, "blk.0.extra.weight": TensorType.Q4_K},
        architecture="llama",
        model_name="The first",
        layout_sha256=recipe.layout_hash(read_model(folder / "model.gguf")),
        model_sha256=recipe.hash_file([folder / "model.gguf"]),
    )
    same = applied(found, folder / "model.gguf")
    assert same.notes == ("the model lacks blk.0.extra.weight of the recipe",)
    deep = applied(found, folder / "deep.gguf")
    assert deep.type.name == "Q5_K_M"
    assert deep.missing == ("blk.0.extra.weight",)
    assert len(deep.extra) == 7
    assert all(name.startswith("blk.2.") for name in deep.extra)
    assert "another model of this architecture (The first)" in deep.notes[0]
    assert "blk.2.attn_q.weight" in " ".join(deep.notes)
    result = quantize(folder / "deep.gguf", deep.type, tmp_path / "deep.gguf", deep.options)
    assert result.tensor_types["Q5_K"] >= len(made)
    other = tmp_path / "tuned.gguf"
    other.write_bytes((folder / "model.gguf").read_bytes()[:-1] + b"\1")
    assert "other weights" in applied(found, other).notes[0]


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="'bert'"):
        applied(Recipe(tensors={"a": TensorType.Q8_0}, architecture="bert"), folder / "model.gguf")
    with pytest.raises(InputError, match="none of 1 tensor that"):
        applied(Recipe(tensors={"a": TensorType.Q8_0}), folder / "model.gguf")


def test_an_unquantized_recipe_and_shapes_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    plain = applied(recipe.recipe_of(folder / "odd.gguf"), folder / "odd.gguf")
    assert plain.type.name == "F16"
    wide = Recipe(tensors=dict.fromkeys(recipe.recipe_of(folder / "odd.gguf").tensors, TensorType.Q6_K))
    fits = applied(wide, folder / "odd.gguf")
    result = quantize(folder / "odd.gguf", fits.type, tmp_path / "out.gguf", fits.options)
    assert {(line.tensor, line.got.name) for line in result.fallbacks} == {
        (f"blk.{block}.ffn_down.weight", "Q8_0") for block in range(2)
    }


def test_what_is_said_of_single_tensors_comes_first(folder: Path, tmp_path: Path) -> None:
    made = Recipe(tensors=dict.fromkeys(recipe.recipe_of(folder / "model.gguf").tensors, TensorType.Q5_K))
    options = QuantizeOptions(tensor_types=(("attn_v", TensorType.Q8_0),), output_tensor_type=TensorType.Q6_K)
    first = applied(made, folder / "model.gguf", options)
    quantize(folder / "model.gguf", first.type, tmp_path / "out.gguf", first.options)
    types = recipe.recipe_of(tmp_path / "out.gguf").tensors
    assert types["output.weight"] is TensorType.Q6_K
    assert {name for name, kind in types.items() if kind is TensorType.Q8_0} == {
        "blk.0.attn_v.weight",
        "blk.1.attn_v.weight",
    }
    assert types["blk.0.attn_q.weight"] is TensorType.Q5_K
