"""Layouts of blocks: what libggml has encoded, taken apart and put together again, is the same bytes."""

import numpy as np
import pytest

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.layouts import level_layout_of, pattern_layout_of, pattern_scales_of, patterns_of

pytestmark = [pytest.mark.engine, pytest.mark.oracle]

LEVELS = [kind for kind in TensorType if level_layout_of(kind)]
PATTERNS = [kind for kind in TensorType if pattern_layout_of(kind)]
ROWS, COLUMNS = 8, 1024


def encoded(kind: TensorType) -> tuple[np.ndarray, np.ndarray]:
    """Encode random rows by libggml; return blocks, uint8 [n_blocks, n_bytes], and what it decodes, [n_blocks, n]."""
    library = ggml.load()
    assert library
    chance = np.random.default_rng(int(kind))
    weights = (chance.standard_normal((ROWS, COLUMNS)) * np.exp(chance.standard_normal((ROWS, 1)))).astype(np.float32)
    content = np.empty(weights.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(weights, int(kind), COLUMNS, content, np.ones(COLUMNS, np.float32))
    values = dequantize(content, int(kind), weights.size)
    return content.reshape(-1, kind.block_bytes), values.reshape(-1, kind.block_size)


@pytest.mark.parametrize("kind", LEVELS, ids=lambda kind: kind.name)
def test_blocks_with_levels_are_put_together_as_they_were(kind: TensorType) -> None:
    layout = level_layout_of(kind)
    assert layout
    blocks, values = encoded(kind)
    found = layout.read(blocks)
    scale = (found.steps * found.scales)[:, :, None]
    offset = 0.0
    if found.minimum_steps is not None and found.minima is not None:
        offset = (found.minimum_steps * found.minima)[:, :, None]
    assert (scale != 0).all()
    wanted = (values.reshape(len(blocks), -1, layout.group) + offset) / scale
    codes = np.abs(wanted[..., None] - layout.levels).argmin(axis=-1).astype(np.uint8).reshape(values.shape)
    again = np.zeros_like(blocks)
    layout.write(again, found, codes)
    assert np.array_equal(again, blocks)


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.name)
def test_blocks_with_patterns_are_put_together_as_they_were(kind: TensorType) -> None:
    layout = pattern_layout_of(kind)
    assert layout
    blocks, values = encoded(kind)
    scales = np.repeat(pattern_scales_of(blocks, layout), layout.group, axis=1)
    parts = (np.abs(values) / scales).reshape(-1, 1, layout.length)
    numbers = np.concatenate(
        [np.abs(part - patterns_of(kind)).sum(axis=-1).argmin(axis=-1) for part in np.split(parts, 64)]
    )
    negative = np.packbits(values < 0, axis=1, bitorder="little")
    again = np.zeros_like(blocks)
    again[:, :2] = blocks[:, :2]
    layout.write(again, layout.numbers(blocks), numbers.astype(np.uint16).reshape(len(blocks), -1), negative)
    assert np.array_equal(again, blocks)


def test_every_type_that_llama_quantize_writes_is_known_or_not() -> None:
    names = {kind.name for kind in [*LEVELS, *PATTERNS]}
    assert names == {
        *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
        *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    }
