"""The grids of ggml's types: what libggml decodes lies on them, and the nearest value is the nearest."""

import numpy as np
import pytest

from ggufkit.allocation.refinement.grids import Grid, grid_of, has_grid
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.layouts import level_layout_of

pytestmark = pytest.mark.engine
ROWS, COLUMNS = 6, 512
NO_METRIC = np.ones((1, 1), np.float32)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [kind for kind in TensorType if level_layout_of(kind)], ids=lambda kind: kind.name)
def test_decoded_blocks_lie_on_their_grid_exactly(kind: TensorType) -> None:
    chance = np.random.default_rng(int(kind))
    # Random bytes reach every bit of the scales; their float16 are made ordinary numbers.
    blocks = chance.integers(0, 256, (ROWS * COLUMNS // kind.block_size, kind.block_bytes), np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}
    halves |= {"Q4_K": (0, 2), "Q5_K": (0, 2)}
    for place in halves.get(kind.name, (0,)):
        scales = chance.uniform(-2, 2, len(blocks)).astype("<f2")
        blocks[:, place : place + 2] = scales.reshape(-1, 1).view(np.uint8)
    if kind is TensorType.Q8_0:
        blocks[:, 2:][blocks[:, 2:] == 128] = 129  # -128, which no encoder writes
    decoded = dequantize(blocks.reshape(-1), int(kind), ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    step = max(kind.block_size, 256)
    per_row = step // kind.block_size * kind.block_bytes
    for start in range(0, COLUMNS, step):
        part = blocks.reshape(ROWS, -1)[:, start // step * per_row : (start // step + 1) * per_row]
        grid = grid_of(np.ascontiguousarray(part).reshape(-1), kind, ROWS)
        assert grid is not None
        assert has_grid(kind)
        for column in range(step):
            values = decoded[:, start + column, None]
            assert np.array_equal(grid.nearest(values, column, NO_METRIC), values)


@pytest.mark.parametrize("kind", [TensorType.Q3_K, TensorType.Q4_K, TensorType.IQ4_XS], ids=lambda kind: kind.name)
def test_the_nearest_value_is_found(kind: TensorType) -> None:
    library = ggml.load()
    assert library
    chance = np.random.default_rng(1)
    weights = chance.standard_normal((4, 256)).astype(np.float32)
    encoded = np.empty(weights.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(weights, int(kind), 256, encoded, np.ones(256, np.float32))
    grid = grid_of(encoded, kind, 4)
    assert isinstance(grid, Grid)
    for column in (0, 17, 255):
        values = chance.standard_normal((4, 1)).astype(np.float32)
        place = column // grid.group
        every = grid.scales[:, place, None] * grid.levels + grid.offsets[:, place, None]
        least = np.abs(every - values).min(axis=1)
        assert np.allclose(np.abs(grid.nearest(values, column, NO_METRIC) - values)[:, 0], least, atol=1e-6)


def test_other_types_have_no_grid() -> None:
    assert grid_of(np.zeros(50, np.uint8), TensorType.IQ1_S, 1) is None
    assert not has_grid(TensorType.IQ1_S)
