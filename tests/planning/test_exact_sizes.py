"""What is planned from a checkpoint's headers is, to the byte, what converting and quantizing writes.

The judge is llama-quantize itself, run by hand on the converted file.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import tiny_gguf
from tiny_checkpoints import RECIPES, Recipe

from ggufkit.conversion import convert
from ggufkit.llamacpp.find import find
from ggufkit.planning.subject import Origin, opened
from ggufkit.planning.survey import Surveyed, survey
from ggufkit.quantization.plan import QuantizeOptions
from ggufkit.quantization.types import TYPES

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Wide enough for blocks of 256, so that recipes mix types; and one of everything in odd widths, where they fall back.
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
ODD: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 288, "num_attention_heads": 5, "num_key_value_heads": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", WIDE | {"num_hidden_layers": 8}),  # enough for recipes that favour some layers
    "llama of odd widths": ("llama", ODD),
    "llama, tied": ("llama-tied", WIDE),
    "llama, biased, odd": ("llama-biased", ODD),
    "mistral": ("mistral", WIDE),
    "mixtral": ("mixtral", WIDE | {"num_local_experts": 8}),
    "qwen2": ("qwen2", WIDE | {"num_key_value_heads": 1}),
    "qwen3": ("qwen3", WIDE),
    "gemma2, tied": ("gemma2", WIDE),
    "deepseek-v2": ("deepseek-v2", {}),
    "deepseek-v3": ("deepseek-v3", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a checkpoint, and convert it."""
    name, changes = MODELS[request.param]
    recipe = RECIPES[name]
    folder = tmp_path_factory.mktemp("exact") / "model"
    folder.mkdir()
    changed = Recipe(recipe.config_class, {**recipe.settings, **changes}, recipe.tokenizer, recipe.extra_config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "changed", changed)
        tiny_checkpoints.make("changed", folder, "bfloat16")
    converted = folder.with_name("model-F16.gguf")
    convert(folder, converted)
    return folder, converted


def plans(source: Path, options: QuantizeOptions | None = None) -> list[Surveyed]:
    with opened(str(source)) as subject:
        return list(survey(subject, TYPES, options or QuantizeOptions()))


def really(source: Path, kind: str, *flags: str | Path) -> int | None:
    """Run llama-quantize; return the size of what it wrote, None where it refused."""
    output = source.with_name("quantized.gguf")
    output.unlink(missing_ok=True)
    ran = subprocess.run(
        [find().tool("llama-quantize"), *flags, source, output, kind, "1"], capture_output=True, check=False
    )
    return output.stat().st_size if ran.returncode == 0 else None


def test_no_byte_is_missed(model: tuple[Path, Path], figure: Callable[[str, str], None], request: Any) -> None:
    folder, converted = model
    planned = {each.type.name: each for each in plans(folder)}
    without = [each for each in planned.values() if not each.needs_imatrix]
    real = {each.type.name: really(converted, each.type.name) for each in without}
    sizes = {each.type.name: each.plan.bytes_after if each.plan else None for each in without}
    assert sizes == real
    name = request.node.callspec.params["model"]
    figure(f"plan: {name}", f"{len([size for size in real.values() if size])} types, 0 bytes off")


@pytest.mark.parametrize("model", ["deepseek-v3"], indirect=True)
def test_from_the_file_as_from_the_checkpoint(model: tuple[Path, Path]) -> None:
    folder, converted = model
    from_folder = [(each.type.name, each.plan and each.plan.bytes_after) for each in plans(folder)]
    assert [(each.type.name, each.plan and each.plan.bytes_after) for each in plans(converted)] == from_folder


def test_with_an_importance_matrix(tmp_path: Path) -> None:
    source, matrix = tiny_gguf.write_model(tmp_path / "model-F16.gguf"), tiny_gguf.write_imatrix(tmp_path / "i.gguf")
    planned = plans(source, QuantizeOptions(imatrix=matrix))
    assert not any(each.needs_imatrix for each in planned)
    for name in ("IQ3_XXS", "Q4_0", "Q2_K_S", "IQ4_XS", "Q4_K_M"):
        each = next(each for each in planned if each.type.name == name)
        assert each.plan is not None
        assert each.plan.bytes_after == really(source, name, "--imatrix", matrix)


def test_an_assumed_matrix_costs_only_its_name(tmp_path: Path) -> None:
    source, matrix = tiny_gguf.write_model(tmp_path / "model-F16.gguf"), tiny_gguf.write_imatrix(tmp_path / "i.gguf")
    needing = {each.type.name: each for each in plans(source) if each.needs_imatrix}
    assert {"IQ1_S", "IQ2_XXS", "IQ3_XXS", "Q2_K_S"} <= needing.keys()
    for name in ("IQ3_XXS", "Q2_K_S"):  # of those that llama-quantize does not take seconds for
        planned = needing[name].plan
        assert planned is not None
        assert really(source, name) is None  # it is needed indeed
        size = really(source, name, "--imatrix", matrix)
        assert size is not None
        assert 0 < size - planned.bytes_after < 512


def test_a_split_model_is_one(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    subprocess.run(
        [find().tool("llama-gguf-split"), "--split-max-tensors", "5", source, tmp_path / "part"],
        check=True,
        capture_output=True,
    )
    first = min(tmp_path.glob("part-00001-of-*.gguf"))
    whole = {each.type.name: each.plan and each.plan.bytes_after for each in plans(source)}
    assert {each.type.name: each.plan and each.plan.bytes_after for each in plans(first)} == whole
    with opened(str(first)) as subject:
        assert subject.origin is Origin.GGUF
        assert len(subject.headers) > 1
