"""What types do to tensors: errors are numbers one can count with, and kept ones are used only if they are whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gguf

from ggufkit.allocation.known_errors import row_errors_of
from ggufkit.allocation.model import Model, open_model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.row_errors import HOPELESS
from ggufkit.allocation.targets import like
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.progress import silent
from ggufkit.quantization.direct import library
from ggufkit.quantization.options import QuantizeOptions

pytestmark = pytest.mark.engine


def opened(path: Path) -> Model:
    return open_model(path, QuantizeOptions(), "usual", [like("Q4_K_M")], ())


def errors(model: Model, folder: Path) -> Any:
    return row_errors_of(model, OptimizeOptions(), 8, "a model", folder, silent)


def test_a_type_that_cannot_hold_the_weights_is_hopeless_but_a_number(tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "model.gguf", dtype=np.float32)
    header = read_header(path)
    tensor = next(each for each in header.tensors if each.name == "blk.0.ffn_up.weight")
    assert tensor.type is TensorType.F32
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(64, 1e30, np.float32).tobytes())
    found = errors(opened(path), tmp_path)[tensor.name]
    assert found[TensorType.F16] == HOPELESS
    assert found[TensorType.F32] == 0
    assert all(0 <= error <= HOPELESS for error in found.values())


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "Q4_0"])
def test_weights_that_llama_cpp_dies_of_become_blocks_that_are_not_valid(kind: str) -> None:
    weights = np.random.default_rng(1).standard_normal(512).astype(np.float32)
    weights[:64] = 1e30
    encoded = np.empty(TensorType[kind].block_bytes * 512 // TensorType[kind].block_size, np.uint8)
    library().quantize(weights, int(TensorType[kind]), 256, encoded, np.ones(256, np.float32))
    assert not library().is_valid(encoded, int(TensorType[kind]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: next(iter(kept.values())).update(Q4_K=float("inf")),
        lambda kept: next(iter(kept.values())).update(Q4_K=float("nan")),
        lambda kept: next(iter(kept.values())).update(Q4_K=-1.0),
        lambda kept: next(iter(kept.values())).update(Q4_K=[]),
        lambda kept: next(iter(kept.values())).popitem(),
        lambda kept: kept.popitem(),
        lambda kept: kept.update(more={"Q4_K": 0.1}),
    ],
)
def test_kept_errors_that_were_damaged_are_computed_again(damage: Callable[[Any], object], tmp_path: Path) -> None:
    model = opened(tiny_gguf.write_model(tmp_path / "model.gguf"))
    wanted = errors(model, tmp_path)
    (path,) = tmp_path.glob("errors-*.json")
    kept = json.loads(path.read_text())
    damage(kept)
    path.write_text(json.dumps(kept))
    assert errors(model, tmp_path) == wanted
    assert json.loads(path.read_text()) != kept
