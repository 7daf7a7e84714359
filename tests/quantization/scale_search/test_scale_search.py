"""Searching scales: libggml decodes what is nearer to the weights, never anything that is farther from them."""

import warnings

import numpy as np
import pytest

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.layouts import level_layout_of, pattern_layout_of
from ggufkit.quantization.scale_search import can_search, searched

pytestmark = [pytest.mark.engine, pytest.mark.oracle]

KINDS = [kind for kind in TensorType if can_search(kind)]
# At most so much of the loss of libggml's encoder is left, for weights and importance as below.
LEFT = {
    "Q4_0": 0.985,
    "Q4_1": 0.985,
    "Q5_0": 0.975,
    "Q5_1": 0.975,
    "Q8_0": 0.7,
    "IQ4_NL": 0.97,
    "IQ4_XS": 0.92,
    "Q2_K": 0.93,
    "Q3_K": 0.975,
    "Q4_K": 0.97,
    "Q5_K": 0.9,
    "Q6_K": 0.875,
    "IQ3_S": 0.74,
    "IQ3_XXS": 0.87,
    "IQ2_XXS": 0.92,
    "IQ2_XS": 0.89,
    "IQ2_S": 0.9,
}
ROWS, COLUMNS = 48, 768

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def encoded(kind: TensorType, weights: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    library = ggml.load()
    assert library
    content = np.empty(weights.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(weights, int(kind), weights.shape[1], content, importance)
    return content


def losses(kind: TensorType, content: np.ndarray, weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return the loss of each block as the package defines it, by what libggml decodes."""
    layout, patterns = level_layout_of(kind), pattern_layout_of(kind)
    values = dequantize(content, int(kind), weights.size).reshape(weights.shape).astype(np.float64)
    originals = weights.astype(np.float64)
    counts, coherence, group = np.tile(importance.astype(np.float64), (len(weights), 1)), 3, 0
    if layout:
        squares = (originals**2).reshape(-1, kind.block_size)
        roots = (squares + squares.mean(axis=1, keepdims=True)) ** 0.25
        counts, coherence, group = counts * roots.reshape(counts.shape), 2, layout.group
    elif patterns:
        group = patterns.group
    errors = (values - originals).reshape(-1, group)
    counts, originals = counts.reshape(-1, group), originals.reshape(-1, group)
    along, whole = (counts * errors * originals).sum(axis=1), (counts * originals**2).sum(axis=1)
    found = (counts * errors**2).sum(axis=1) + coherence * along**2 / np.where(whole > 0, whole, 1)
    return found.reshape(-1, kind.block_size // group).sum(axis=1)


def plain_losses(kind: TensorType, content: np.ndarray, weights: np.ndarray, importance: np.ndarray) -> float:
    values = dequantize(content, int(kind), weights.size).reshape(weights.shape)
    return float(((values - weights).astype(np.float64) ** 2 * importance).sum())


def shrinkage(kind: TensorType, content: np.ndarray, weights: np.ndarray, importance: np.ndarray) -> float:
    """Return by how much values are smaller than weights altogether."""
    values = dequantize(content, int(kind), weights.size).reshape(weights.shape)
    return 1 - float((values * weights * importance).sum() / (weights * weights * importance).sum())


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    chance = np.random.default_rng(1)
    return (chance.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def importance() -> np.ndarray:
    return np.exp(np.random.default_rng(2).standard_normal(COLUMNS)).astype(np.float32)


@each_kind
def test_less_is_lost_and_in_no_block_more(kind: TensorType, weights: np.ndarray, importance: np.ndarray) -> None:
    before = encoded(kind, weights, importance)
    after = searched(weights, before, kind, COLUMNS, importance)
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    lost, was = (losses(kind, each, weights, importance) for each in (after, before))
    assert (lost <= was * 1.00001).all()
    assert lost.sum() <= LEFT[kind.name] * was.sum()
    # What was found is not searched for in vain again, nor does it change where somebody does so.
    again = searched(weights, after, kind, COLUMNS, importance)
    assert losses(kind, again, weights, importance).sum() > 0.98 * lost.sum()


@each_kind
def test_values_are_hardly_smaller_than_weights_altogether(
    kind: TensorType, weights: np.ndarray, importance: np.ndarray
) -> None:
    """The smallest squares would take all of the relative error off their size; and those are no larger for it."""
    before = encoded(kind, weights, importance)
    after = searched(weights, before, kind, COLUMNS, importance)
    lost, was = (plain_losses(kind, each, weights, importance) for each in (after, before))
    relative = lost / float((weights.astype(np.float64) ** 2 * importance).sum())
    missing, before_that = (abs(shrinkage(kind, each, weights, importance)) for each in (after, before))
    assert missing < max(0.4 * relative, 0.5 * before_that)
    assert lost < was


@pytest.mark.parametrize("kind", [TensorType.Q4_0, TensorType.IQ4_NL], ids=lambda kind: kind.name)
def test_the_best_of_all_scales_is_nearly_found(kind: TensorType, weights: np.ndarray, importance: np.ndarray) -> None:
    """Of blocks with one scale each, all float16 of the right size can be tried, by libggml's own decoder."""
    some = weights[:2]
    before = encoded(kind, some, importance)
    after = searched(some, before, kind, COLUMNS, importance)
    # A block with the scale 1 and one level for all of its weights tells the levels.
    plain = np.zeros((16, kind.block_bytes), np.uint8)
    plain[:, :2] = np.array([1.0], "<f2").view(np.uint8)
    plain[:, 2:] = (np.arange(16, dtype=np.uint8) * 17)[:, None]
    levels = dequantize(plain.reshape(-1), int(kind), 16 * 32).reshape(16, 32)[:, 0]
    best = np.full(some.size // 32, np.inf)
    largest = np.abs(some).max() / np.abs(levels).max()
    for scale in np.unique(np.linspace(-3 * largest, 3 * largest, 3001).astype(np.float16)):
        nearest = np.abs(some.reshape(-1, 32)[:, :, None] - np.float32(scale) * levels).argmin(axis=2).astype(np.uint8)
        tried = np.zeros((len(best), kind.block_bytes), np.uint8)
        tried[:, :2] = np.array([scale], "<f2").view(np.uint8)
        tried[:, 2:] = nearest[:, :16] | (nearest[:, 16:] << np.uint8(4))
        best = np.minimum(best, losses(kind, tried.reshape(-1), some, importance))
    lost, was = (losses(kind, each, some, importance).sum() for each in (after, before))
    assert best.sum() <= lost * 1.001
    # At least four tenths of all that could be had, though only a few scales are tried.
    assert was - lost >= 0.4 * (was - best.sum())


@each_kind
def test_without_importance_all_columns_count_as_much(kind: TensorType, weights: np.ndarray) -> None:
    ones = np.ones(COLUMNS, np.float32)
    before = encoded(kind, weights, ones)  # some types cannot be encoded without
    after = searched(weights, before, kind, COLUMNS, None)
    assert np.array_equal(after, searched(weights, before, kind, COLUMNS, 7 * ones))
    assert losses(kind, after, weights, ones).sum() <= losses(kind, before, weights, ones).sum()


@each_kind
def test_what_cannot_be_better_stays(kind: TensorType) -> None:
    zeros = np.zeros((4, COLUMNS), np.float32)
    before = encoded(kind, zeros, np.ones(COLUMNS, np.float32))
    assert np.array_equal(searched(zeros, before, kind, COLUMNS, None), before)


@each_kind
def test_odd_numbers_come_out_finite(kind: TensorType, weights: np.ndarray, importance: np.ndarray) -> None:
    odd = weights.copy()
    odd[0, :] = 0
    odd[1, 5] = 300  # among weights of 0.02
    odd[2] *= np.float32(1e-6)  # below what float16 can tell
    odd[3] *= np.float32(1e5)
    odd[4] = np.abs(odd[4])
    unseen = importance.copy()
    unseen[: COLUMNS // 2] = 0
    before = encoded(kind, odd, unseen)
    after = searched(odd, before, kind, COLUMNS, unseen)
    library = ggml.load()
    assert library
    assert library.is_valid(after, int(kind))
    lost, was = (losses(kind, each, odd, unseen + 1e-4 * unseen.mean()) for each in (after, before))
    assert (lost <= was * 1.0001).all()


def test_numbers_near_the_ends_of_float32_are_left_to_ggml() -> None:
    huge = np.full((2, COLUMNS), 3e38, np.float32)
    huge[:, ::3] = -1e30
    kind = TensorType.Q4_K
    before = np.full(huge.size // 256 * kind.block_bytes, 7, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(searched(huge, before, kind, COLUMNS, None), before)


def test_columns_that_nobody_has_seen_are_not_given_up(weights: np.ndarray) -> None:
    unseen = np.ones(COLUMNS, np.float32)
    unseen[::2] = 0
    kind = TensorType.IQ3_S
    after = searched(weights, encoded(kind, weights, unseen), kind, COLUMNS, unseen)
    values = dequantize(after, int(kind), weights.size).reshape(weights.shape)
    assert np.square(values - weights)[:, ::2].sum() < 0.1 * np.square(weights[:, ::2]).sum()


def test_the_same_whatever_pieces_rows_come_in(weights: np.ndarray, importance: np.ndarray) -> None:
    for kind in (TensorType.Q4_K, TensorType.IQ3_XXS):
        before = encoded(kind, weights, importance)
        whole = searched(weights, before, kind, COLUMNS, importance).reshape(ROWS, -1)
        parts = [
            searched(weights[rows], before.reshape(ROWS, -1)[rows].reshape(-1), kind, COLUMNS, importance)
            for rows in (slice(0, 5), slice(5, 6), slice(6, ROWS))
        ]
        assert np.array_equal(np.concatenate(parts), whole.reshape(-1))


def test_weights_on_a_lattice_stay_there() -> None:
    chance = np.random.default_rng(3)
    trained = (chance.integers(-7, 8, (4, COLUMNS)) * np.float32(0.0123)).astype(np.float32)
    found, packed = pack_rows(trained)
    assert found.all()
    before = packed.reshape(-1)
    assert np.array_equal(searched(trained, before, TensorType.Q4_0, COLUMNS, None), before)


def test_other_types_stay_as_they_are(weights: np.ndarray) -> None:
    content = np.arange(weights.size // 256 * 50, dtype=np.uint32).astype(np.uint8)
    assert not can_search(TensorType.IQ1_S)
    assert searched(weights, content, TensorType.IQ1_S, COLUMNS, None) is content
