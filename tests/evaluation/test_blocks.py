"""Blocks of every quantized type: sound ones are never called damaged, damaged ones nearly always."""

import numpy as np
import pytest

from ggufkit.evaluation import blocks
from ggufkit.evaluation.error_bounds import BOUNDS
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml

pytestmark = pytest.mark.engine

COLUMNS, ROWS = 512, 32
SCALED = [kind for kind, bound in BOUNDS.items() if bound.scale_group]


def weights(kind: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((ROWS, COLUMNS))
    made = {
        "normal": normal,
        "uneven": normal * np.exp(random.standard_normal(COLUMNS)),
        "sparse": np.where(random.random(normal.shape) < 0.8, 0, normal),
        "shifted": normal + 3,
        "zero": normal * 0,
    }[kind]
    return made.astype(np.float32).reshape(-1)


def quantized(values: np.ndarray, kind: TensorType, importance: float | None) -> np.ndarray:
    """Quantize, with an importance matrix whose values are as uneven as e^(standard deviations)."""
    library = ggml.load()
    assert library is not None
    weighting = None
    if importance is not None:
        weighting = np.exp(importance * np.random.default_rng(1).standard_normal(COLUMNS)).astype(np.float32)
    made = np.empty(values.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(values, int(kind), COLUMNS, made, weighting)
    return made.reshape(-1, kind.block_bytes)


@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.name)
def test_sound_blocks_are_not_called_damaged(kind: TensorType) -> None:
    for distribution in ("normal", "uneven", "sparse", "shifted", "zero"):
        values = weights(distribution)
        for importance in (0.5, 4):
            found = blocks.compare(values, quantized(values, kind, importance), None, kind)
            assert not found.damaged.size, (distribution, importance)
            assert found.worst <= BOUNDS[kind].limit(weighted=True)
        if blocks.can_requantize(kind):
            stored = quantized(values, kind, None)
            found = blocks.compare(values, stored, blocks.requantize(values, kind, COLUMNS), kind)
            assert not found.different.size
            assert not found.damaged.size


@pytest.mark.parametrize("kind", SCALED, ids=lambda kind: kind.name)
def test_a_damaged_byte_is_noticed_without_knowing_how_the_blocks_were_made(kind: TensorType) -> None:
    values = weights("normal")
    stored = quantized(values, kind, 1)
    count = min(len(stored), 64)
    random = np.random.default_rng(2)
    stored[np.arange(count), random.integers(0, kind.block_bytes, count)] ^= random.integers(1, 256, count).astype("u1")
    found = blocks.compare(values, stored, None, kind)
    assert set(found.damaged) <= set(range(count))
    # The rest are bits so low that the block is as good with them as without.
    assert len(found.damaged) >= (0.5 if kind in blocks._REFITTED else 0.8 if kind.block_size < 256 else 0.9) * count


@pytest.mark.parametrize("kind", SCALED, ids=lambda kind: kind.name)
def test_other_weights_are_noticed(kind: TensorType) -> None:
    values = weights("normal")
    stored = quantized(values, kind, None)
    found = blocks.compare(weights("normal", seed=9), stored, None, kind)
    assert len(found.damaged) > 0.9 * found.blocks


@pytest.mark.parametrize("route", ["F16", "BF16"])
def test_the_way_by_16_bits_is_found(route: str) -> None:
    values = weights("normal") * np.float32(1e-4)
    kind = TensorType.Q4_K
    stored = blocks.requantize(blocks.by_route(values, route), kind, COLUMNS)
    made = blocks.requantize(values, kind, COLUMNS)
    assert (stored != made).any()
    blocks.try_other_routes(values, stored, made, kind)
    assert (stored == made).all()
