"""Searching the scales of quantized blocks: the same types and bytes, nearer to the weights than ggml's encoder comes.

ggml's encoder takes each block's scales from a few that it tries, and rounds them afterwards. Here scales, as they are
stored, are searched for by what they lose. Of a group of weights x, their values q and what each weight counts, w, that
is the sum of w * (x - q)^2 plus c * (sum of w * (x - q) * x)^2 / (sum of w * x^2). The second part is what would be
smallest if all errors were least: values that are smaller than the weights altogether. Single errors cancel each other
out in what a row computes, but these point the same way, in every group, row and layer: with the first part alone,
whole models in types of few bits lose half as much again as with ggml's scales (which it stretches by a factor that is
found by trying). A block is replaced only by one that loses less.

(That better scales exist for these layouts, and how much models gain: F. Compilade in llama.cpp's pull request 12557,
for other ways of searching.)
"""

from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.layouts import level_layout_of, pattern_layout_of
from ggufkit.quantization.scale_search.levels import LevelSearch
from ggufkit.quantization.scale_search.patterns import PatternSearch

__all__ = ["VERSION", "can_search", "in_own_threads", "searched"]

VERSION = 1  # of the method: another one gives other bytes
_AT_ONCE = 1 << 16  # weights: what is computed with them stays in the cache
_LEAST = 1e-4  # of the mean importance: columns that no text has used are not free to be anything

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def can_search(kind: TensorType) -> bool:
    """Whether a type's blocks are known here."""
    return level_layout_of(kind) is not None or pattern_layout_of(kind) is not None


def in_own_threads() -> AbstractContextManager[object]:
    """Let NumPy multiply in the calling threads only: its own ones would keep those who search from the cores."""
    found: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return found


def searched(values: Floats, encoded: Bytes, kind: TensorType, columns: int, importance: Floats | None) -> Bytes:
    """Return whole encoded rows with better scales, uint8, or as they are where there are none.

    Args:
        values: what was encoded, float32, rows of `columns` elements one after the other.
        encoded: what ggml's encoder made of it, uint8. Of types that cannot be searched it is returned as it is.
        kind: its type.
        columns: elements of a row.
        importance: of each column, float32 [columns]; None: all are as important.
    """
    if not can_search(kind) or not values.size:
        return encoded
    weights = np.ones(columns, np.float32) if importance is None else importance.astype(np.float32)
    if (mean := float(weights.mean(dtype=np.float64))) > 0:
        weights = weights / np.float32(mean) + np.float32(_LEAST)
    rows = np.ascontiguousarray(values).reshape(-1, columns)
    blocks = encoded.reshape(len(rows), -1, kind.block_bytes)
    step = max(1, _AT_ONCE // columns)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # such a block is not less than what there is
        found = np.concatenate(
            [
                _better(rows[start : start + step], blocks[start : start + step], kind, weights)
                for start in range(0, len(rows), step)
            ]
        )
    if kind is TensorType.Q4_0:
        on_lattice, _ = pack_rows(rows)  # these are stored as they were
        found[on_lattice] = blocks[on_lattice]
    return found.reshape(encoded.shape)


def _better(rows: Floats, blocks: Bytes, kind: TensorType, importance: Floats) -> Bytes:
    """Search for some rows, float32 [n_rows, n_columns], with blocks, uint8 [n_rows, n_blocks, block bytes]."""
    before = np.ascontiguousarray(blocks).reshape(-1, kind.block_bytes)
    search: LevelSearch | PatternSearch
    if (patterns := pattern_layout_of(kind)) is not None:
        search = PatternSearch(kind, patterns, rows, importance)
    elif (layout := level_layout_of(kind)) is not None:
        search = LevelSearch(layout, rows, importance, kind.block_size)
    else:
        return blocks
    after = search.better(before)
    lost, kept = (
        search.losses(dequantize(each.reshape(-1), int(kind), rows.size).reshape(rows.shape))
        for each in (after, before)
    )
    found: Bytes = np.where((lost < kept)[:, None], after, before)
    return found.reshape(blocks.shape)
