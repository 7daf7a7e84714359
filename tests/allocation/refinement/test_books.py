"""Types with books of patterns: what libggml decodes is known, the nearest is near, and it is stored as it is."""

import numpy as np
import pytest

from ggufkit.allocation.refinement.books import BookGrid, book_grid_of, has_book
from ggufkit.allocation.refinement.feedback import stored
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.dequantize import dequantize

pytestmark = pytest.mark.engine
ROWS, COLUMNS = 24, 512
KINDS = [TensorType.IQ3_S, TensorType.IQ3_XXS, TensorType.IQ2_S, TensorType.IQ2_XS, TensorType.IQ2_XXS]
PATTERNS = {"IQ3_S": 512, "IQ3_XXS": 256, "IQ2_S": 1024, "IQ2_XS": 512, "IQ2_XXS": 256}  # ggml-common.h
EVEN = {"IQ3_XXS", "IQ2_XS", "IQ2_XXS"}

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def encoded(kind: TensorType, weights: np.ndarray) -> tuple[BookGrid, np.ndarray]:
    """Encode rows by libggml; return their grid and what it decodes."""
    library = ggml.load()
    assert library
    content = np.empty(weights.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(weights, int(kind), weights.shape[1], content, np.ones(weights.shape[1], np.float32))
    decoded = dequantize(content, int(kind), weights.size).reshape(weights.shape)
    return book_grid_of(content, kind, len(weights)), decoded


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.02


def metric(seed: int, mixed: float = 0.1) -> np.ndarray:
    mixing = np.eye(8) + mixed * np.random.default_rng(seed).standard_normal((8, 8))
    return (mixing @ mixing.T).astype(np.float32)


def distances(errors: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.einsum("...i,ij,...j->...", errors, own, errors)


@pytest.mark.oracle
@each_kind
def test_books_are_those_of_libggml(kind: TensorType) -> None:
    """Random bytes, decoded: every eight of them is a pattern of the book with signs, times the scale read here."""
    chance = np.random.default_rng(int(kind))
    blocks = chance.integers(0, 256, (ROWS * COLUMNS // 256, kind.block_bytes), np.uint8)
    blocks[:, :2] = chance.uniform(0.1, 2, len(blocks)).astype("<f2").reshape(-1, 1).view(np.uint8)
    decoded = dequantize(blocks.reshape(-1), int(kind), ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    grid = book_grid_of(blocks.reshape(-1), kind, ROWS)
    assert has_book(kind)
    assert len(np.unique(grid.book.patterns, axis=0)) == len(grid.book.patterns) == PATTERNS[kind.name]
    assert grid.book.is_even == (kind.name in EVEN)
    for column in range(0, COLUMNS, 8):
        values = decoded[:, column : column + 8]
        found = grid.nearest(values, column, metric(column))
        np.testing.assert_allclose(found, values, rtol=1e-6, atol=0)


@each_kind
def test_no_change_of_one_part_comes_nearer(kind: TensorType, weights: np.ndarray) -> None:
    """With the signs as they are, every other pattern in place of the last one that was chosen is farther away."""
    grid, _ = encoded(kind, weights)
    length = grid.book.patterns.shape[1]
    for column in (0, 40, 504):
        scales, wanted, own = (
            grid.scales[:, column // grid.group, None],
            weights[:, column : column + 8],
            metric(column),
        )
        found = grid.nearest(wanted, column, own)
        least = distances(found - wanted, own)
        others = np.repeat(found[None], len(grid.book.patterns), axis=0)
        others[:, :, 8 - length :] = np.sign(found[:, 8 - length :]) * scales * grid.book.patterns[:, None]
        np.testing.assert_allclose(distances(others - wanted, own).min(axis=0), least, rtol=1e-4)


@each_kind
def test_the_metric_counts(kind: TensorType, weights: np.ndarray) -> None:
    """Where errors go together, what is nearest by it is nearer than what is nearest for each weight alone."""
    grid, _ = encoded(kind, weights)
    own = metric(1, mixed=0.3)
    by_metric, alone = (grid.nearest(weights[:, :8], 0, each) for each in (own, np.eye(8, dtype=np.float32)))
    assert distances(by_metric - weights[:, :8], own).sum() < 0.9 * distances(alone - weights[:, :8], own).sum()


@each_kind
def test_what_is_handed_over_is_stored_as_the_values(kind: TensorType, weights: np.ndarray) -> None:
    """Values that were stored once change when they are stored again; what `handed` makes of them does not."""
    library = ggml.load()
    assert library
    grid, decoded = encoded(kind, weights)
    importance = np.ones(COLUMNS, np.float32)

    def changed(values: np.ndarray) -> float:
        return float(np.square(stored(library, values, kind, importance) - decoded).sum() / np.square(decoded).sum())

    assert changed(grid.handed(decoded)) < 2e-3
    assert changed(grid.handed(decoded)) < 0.5 * changed(decoded)


def test_rows_of_zeros_stay_zeros() -> None:
    grid, decoded = encoded(TensorType.IQ3_S, np.zeros((2, 256), np.float32))
    assert not decoded.any()
    assert not grid.nearest(np.ones((2, 8), np.float32), 0, metric(0)).any()
    assert not grid.handed(decoded).any()
