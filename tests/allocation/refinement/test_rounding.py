"""Compiled loops and NumPy's: two ways to write down the same rounding, each of which judges the other."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.feedback import Feedback, Moments, loss, stored
from ggufkit.allocation.refinement.grids import Grid, grid_of
from ggufkit.allocation.refinement.rounding import Rounding, compiled
from ggufkit.allocation.weights import encoded_as
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.ggml import Ggml

pytestmark = pytest.mark.engine
ROWS, COLUMNS = 40, 768
# Whole steps, steps that are not equal, offsets, and the four sorts of books: of four or eight, signs free or even.
KINDS = [
    TensorType[name]
    for name in ("Q3_K", "Q4_K", "Q2_K", "Q8_0", "Q5_1", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS")
]
ZERO = 5  # a row without a scale


@pytest.fixture(scope="module")
def moments() -> Moments:
    """Inputs that go together."""
    chance = np.random.default_rng(3)
    text = chance.standard_normal((2000, COLUMNS)) @ (
        np.eye(COLUMNS) + 0.05 * chance.standard_normal((COLUMNS, COLUMNS))
    )
    return Moments(text.T @ text, len(text))


@pytest.fixture(scope="module")
def way(moments: Moments) -> Rounding:
    given = moments.given / moments.tokens
    carry = np.linalg.cholesky(np.linalg.inv(given)).T
    return Rounding(given.astype(np.float32), carry.astype(np.float32))


@pytest.fixture(scope="module")
def library() -> Ggml:
    found = ggml.load()
    assert found
    return found


def grid_and_block(library: Ggml, kind: TensorType) -> tuple[Grid | BookGrid, np.ndarray]:
    """The grid of some rows, and rows that are near them."""
    chance = np.random.default_rng(4)
    rows = chance.standard_normal((ROWS, kind.block_size)).astype(np.float32)
    rows[ZERO] = 0
    importance = np.ones(kind.block_size, np.float32)
    grid = grid_of(encoded_as(library, rows, kind, kind.block_size, importance), kind, ROWS)
    assert grid
    return grid, rows + 0.1 * chance.standard_normal(rows.shape).astype(np.float32)


def both_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Yield twice: compiled, and then with NumPy."""
    assert compiled(), "numba is among the tools for tests"
    yield
    with monkeypatch.context() as patch:
        patch.setattr("ggufkit.allocation.refinement.rounding.compiled", lambda: None)
        yield


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows are the same. A weight in the middle of two values may fall to either, and what follows it with it."""
    return np.isclose(one, other, rtol=1e-4, atol=1e-5).all(axis=1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_blocks_are_rounded_alike(
    kind: TensorType, way: Rounding, library: Ggml, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, block = grid_and_block(library, kind)
    for start in (0, 256, COLUMNS - kind.block_size):
        (found, carried), (plain, also_carried) = (
            way.rounded(grid, block.copy(), start) for _ in both_ways(monkeypatch)
        )
        same = alike(found, plain)
        assert same.mean() >= 0.95
        assert same[ZERO]
        assert np.isfinite(found).all()
        np.testing.assert_allclose(carried[same], also_carried[same], rtol=1e-2, atol=1e-3)
        # What is carried on of a row is what its columns still lack: (W - Q) U^-1 of this block.
        lacking = (block - found) @ np.linalg.inv(way.carry[start:, start:][: kind.block_size, : kind.block_size])
        np.testing.assert_allclose(carried, lacking, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sweeps_come_to_the_same(
    kind: TensorType, way: Rounding, library: Ggml, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, wanted = grid_and_block(library, kind)
    for start in (0, 256):
        place = slice(start, start + kind.block_size)
        own = way.moments[place, place]
        found = []
        for _ in both_ways(monkeypatch):
            block = np.zeros_like(wanted)
            for _ in range(2):
                block = way.swept(grid, block, (wanted - block) @ own, start)
            found.append(block)
        errors = [np.einsum("ri,ij,rj->r", wanted - block, own, wanted - block) for block in found]
        same = alike(*found)
        assert same.mean() >= 0.9
        assert same[ZERO]
        np.testing.assert_allclose(errors[0], errors[1], rtol=0.02)
        assert errors[0].sum() < 0.5 * np.einsum("ri,ij,rj->", wanted, own, wanted)


@pytest.mark.parametrize("kind", ["Q3_K", "Q4_0", "IQ3_S"])
def test_whole_matrices_gain_the_same_without_numba(
    kind: str, moments: Moments, library: Ggml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba is absent, or there and broken: NumPy does it."""
    weights = np.random.default_rng(5).standard_normal((24, COLUMNS)).astype(np.float32)

    def left() -> float:
        better = Feedback(moments).refined(library, weights, TensorType[kind], None)
        return loss(weights, stored(library, better.handed, TensorType[kind], None), moments)

    with_numba = left()
    for broken in (None, object()):
        monkeypatch.setitem(sys.modules, "numba", broken)
        monkeypatch.delitem(sys.modules, "ggufkit.allocation.refinement.kernels", raising=False)
        monkeypatch.delattr("ggufkit.allocation.refinement.kernels", raising=False)
        compiled.cache_clear()
        try:
            assert compiled() is None
            assert left() == pytest.approx(with_numba, rel=0.01)
        finally:
            monkeypatch.undo()
            compiled.cache_clear()


def test_one_feedback_serves_types_of_other_blocks(moments: Moments, library: Ggml) -> None:
    weights = np.random.default_rng(5).standard_normal((8, COLUMNS)).astype(np.float32)
    several = Feedback(moments)
    for kind in (TensorType.Q4_0, TensorType.IQ3_S, TensorType.Q3_K, TensorType.Q4_0):
        alone = Feedback(moments).refined(library, weights, kind, None)
        np.testing.assert_array_equal(several.refined(library, weights, kind, None).values, alone.values)


@pytest.mark.parametrize("threads", [2, 5, 64])
@pytest.mark.parametrize("kind", [TensorType.Q4_K, TensorType.IQ3_S], ids=lambda kind: kind.name)
def test_threads_share_rows_and_change_nothing(kind: TensorType, threads: int, moments: Moments, library: Ggml) -> None:
    chance = np.random.default_rng(6)
    outputs = chance.standard_normal((600, 10))
    weights = chance.standard_normal((10, COLUMNS)).astype(np.float32)
    alone, shared = (Feedback(moments, threads=count).refined(library, weights, kind, None) for count in (1, threads))
    assert alike(alone.values, shared.values).mean() >= 0.9  # products of fewer rows may differ in the last bit
    known = outputs.T @ outputs
    alone, shared = (
        Feedback(moments, known, threads=count).refined(library, weights, kind, None) for count in (1, threads)
    )
    errors = [loss(weights, each.values, moments, known) for each in (alone, shared)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
