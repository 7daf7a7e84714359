"""Compiled loops and NumPy's: two ways to write down the same rounding, each of which judges the other."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from ggufkit.allocation.refinement import rounding
from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.feedback import Feedback, Moments, loss, stored
from ggufkit.allocation.refinement.grids import Grid, grid_of
from ggufkit.allocation.refinement.rounding import Rounding
from ggufkit.allocation.weights import encoded_as
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml

pytestmark = pytest.mark.engine
ROWS = 40
# Whole steps, steps that are not equal, offsets, and the four sorts of books: of four or eight, signs free or even.
KINDS = [
    TensorType[name]
    for name in ("Q3_K", "Q4_K", "Q2_K", "Q8_0", "Q5_1", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS")
]


@pytest.fixture
def way() -> Rounding:
    """Inputs that go together."""
    chance = np.random.default_rng(3)
    text = chance.standard_normal((2000, 256)) @ (np.eye(256) + 0.08 * chance.standard_normal((256, 256)))
    moments = text.T @ text / len(text)
    carry = np.linalg.cholesky(np.linalg.inv(moments)).T
    return Rounding(moments.astype(np.float32), carry.astype(np.float32))


def grid_and_block(kind: TensorType) -> tuple[Grid | BookGrid, np.ndarray]:
    """The grid of some rows, one of which is zeros, so that it has no scale; and rows that are near them."""
    library = ggml.load()
    assert library
    chance = np.random.default_rng(4)
    rows = chance.standard_normal((ROWS, kind.block_size)).astype(np.float32)
    rows[5] = 0
    importance = np.ones(kind.block_size, np.float32)
    grid = grid_of(encoded_as(library, rows, kind, kind.block_size, importance), kind, ROWS)
    assert grid
    return grid, rows + 0.1 * chance.standard_normal(rows.shape).astype(np.float32)


def both_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Yield twice: compiled, and then with NumPy."""
    assert rounding.kernels(), "numba is among the tools for tests"
    yield
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "kernels", lambda: None)
        yield


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_blocks_are_rounded_alike(kind: TensorType, way: Rounding, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, block = grid_and_block(kind)
    start = 256 - kind.block_size  # the last block, also of the short ones
    (compiled, carried), (plain, also_carried) = (
        way.rounded(grid, block.copy(), start) for _ in both_ways(monkeypatch)
    )
    # A weight in the middle between two values may fall to either side, and what follows it with it.
    alike = np.isclose(compiled, plain, rtol=1e-5, atol=1e-6).all(axis=1)
    assert alike.mean() > 0.9
    assert np.allclose(carried[alike], also_carried[alike], rtol=1e-3, atol=1e-4)
    assert not np.array_equal(compiled, block)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sweeps_come_to_the_same(kind: TensorType, way: Rounding, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, wanted = grid_and_block(kind)
    own = way.moments[: kind.block_size, : kind.block_size]
    found = []
    for _ in both_ways(monkeypatch):
        block = np.zeros_like(wanted)
        for _ in range(2):
            way.sweep(grid, block, (wanted - block) @ own, 0)
        found.append(block)
    errors = [np.einsum("ri,ij,rj->r", wanted - block, own, wanted - block) for block in found]
    assert np.isclose(found[0], found[1], rtol=1e-5, atol=1e-6).all(axis=1).mean() > 0.9
    np.testing.assert_allclose(errors[0], errors[1], rtol=0.02)
    assert errors[0].sum() < 0.5 * np.einsum("ri,ij,rj->", wanted, own, wanted)


def test_without_numba_the_result_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ggml.load()
    assert library
    chance = np.random.default_rng(5)
    text = chance.standard_normal((2000, 256)) @ (np.eye(256) + 0.08 * chance.standard_normal((256, 256)))
    moments = Moments(text.T @ text, len(text))
    weights = chance.standard_normal((16, 256)).astype(np.float32)

    def left() -> float:
        better = Feedback(moments).refined(library, weights, TensorType.Q3_K, None)
        return loss(weights, stored(library, better.handed, TensorType.Q3_K, None), moments)

    compiled = left()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "ggufkit.allocation.refinement.kernels")
    monkeypatch.delattr("ggufkit.allocation.refinement.kernels")
    rounding.kernels.cache_clear()
    try:
        assert rounding.kernels() is None
        assert left() == pytest.approx(compiled, rel=0.01)
    finally:
        rounding.kernels.cache_clear()


@pytest.mark.parametrize("threads", [2, 5, 64])
def test_threads_share_rows_and_change_nothing(threads: int) -> None:
    library = ggml.load()
    assert library
    chance = np.random.default_rng(6)
    text, outputs = chance.standard_normal((600, 256)), chance.standard_normal((600, 10))
    weights = chance.standard_normal((10, 256)).astype(np.float32)
    moments = Moments(text.T @ text, len(text))
    for known in (None, outputs.T @ outputs):
        alone, shared = (
            Feedback(moments, known, threads=count).refined(library, weights, TensorType.Q4_K, None)
            for count in (1, threads)
        )
        errors = [loss(weights, each.values, moments, known) for each in (alone, shared)]
        assert errors[1] == pytest.approx(errors[0], rel=0.01)  # products of fewer rows may differ in the last bit
        assert shared.values.shape == weights.shape
