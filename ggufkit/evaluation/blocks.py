"""Compare blocks of a quantized tensor with the weights that they should hold.

Three questions, from the strictest to the mildest: are the bytes those that ggml writes for these weights? If not, has
each weight at least taken the nearest of the values that its scale offers? And is the block's error one that its type
can have? A damaged byte fails the first; whether it fails the others tells damage from another way of quantizing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.error_bounds import BOUNDS
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.dequantize import dequantize

Array = NDArray[Any]

# ggml chooses codes by a scale that it then rounds to 16 or 6 bits, so a weight half-way between may go either way.
_TOLERATED = 0.1
# With an importance matrix, the oldest types fit the scale to the codes afterwards: only their order can be relied on.
_REFITTED = {TensorType.Q4_0, TensorType.Q4_1, TensorType.Q5_0, TensorType.Q5_1, TensorType.Q8_0}
# The weights before quantization were floats of 32, or were stored with 16 bits on the way.
ROUTES = ("F32", "F16", "BF16")
_NEED_IMPORTANCE = {
    TensorType.IQ1_S,
    TensorType.IQ1_M,
    TensorType.IQ2_XXS,
    TensorType.IQ2_XS,
    TensorType.IQ2_S,
    TensorType.IQ3_XXS,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some whole rows compared; `damaged` and `different` are indices of blocks within them."""

    blocks: int
    different: Array
    damaged: Array
    squared_error: float
    squared_weights: float
    worst: float  # RMS error of a block as a share of its largest |x|
    worst_block: int


def can_requantize(tensor_type: TensorType) -> bool:
    """Tell whether ggml can make blocks of this type here, without an importance matrix."""
    return ggml.load() is not None and tensor_type in BOUNDS and tensor_type not in _NEED_IMPORTANCE


def by_route(weights: Array, route: str) -> Array:
    """Round float32 weights to what is left of them after they were stored as `route`."""
    library = ggml.load()
    if route == "F32" or library is None:
        return weights
    half, back = np.empty(weights.size, np.uint16), np.empty(weights.size, np.float32)
    library.from_float32(weights, route, half)
    library.to_float32(half, route, back)
    return back


def requantize(weights: Array, tensor_type: TensorType, columns: int) -> Array:
    """Quantize whole rows as llama-quantize does without an importance matrix: uint8 [blocks, bytes of a block]."""
    library = ggml.load()
    if library is None:
        raise NotImplementedError("libggml is not there")
    blocks = weights.size // tensor_type.block_size
    target = np.empty(blocks * tensor_type.block_bytes, np.uint8)
    library.quantize(np.ascontiguousarray(weights), int(tensor_type), columns, target)
    return target.reshape(blocks, tensor_type.block_bytes)


def try_other_routes(weights: Array, stored: Array, made: Array, tensor_type: TensorType) -> None:
    """Where blocks of `made` differ from those stored, see whether they were made by another route; if so, put it in.

    Without an importance matrix, ggml quantizes each block by itself.
    """
    values = weights.reshape(len(stored), -1)
    for route in ROUTES:
        different = np.flatnonzero((stored != made).any(axis=1))
        if not different.size:
            return
        again = requantize(by_route(values[different].reshape(-1), route), tensor_type, tensor_type.block_size)
        same = (again == stored[different]).all(axis=1)
        made[different[same]] = again[same]


def compare(weights: Array, stored: Array, made: Array | None, tensor_type: TensorType) -> Comparison:
    """Compare blocks of a type with what they should hold.

    `weights` are float32 [blocks * block size], `stored` uint8 [blocks, bytes of a block], and `made` what ggml makes
    of the weights, in the shape of `stored`, or None where this is of no use: the file was quantized in another way.
    """
    bound = BOUNDS[tensor_type]
    limit = bound.limit(weighted=made is None)
    blocks = len(stored)
    wanted = weights.reshape(blocks, -1)
    found = dequantize(stored, int(tensor_type), weights.size).reshape(blocks, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = _errors(found, wanted)
        limits = np.abs(wanted).max(axis=1) * limit
        different = np.arange(blocks) if made is None else np.flatnonzero((stored != made).any(axis=1))
        suspects = different[~(errors[different] <= limits[different])]
        if bound.scale_group and different.size:
            steps, inside = _staircases(wanted[different], found[different], bound.scale_group)
            refitted = made is None and tensor_type in _REFITTED
            away = _out_of_order(steps, inside) if refitted else _not_nearest(steps, inside)
            suspects = np.union1d(suspects, different[away.reshape(different.size, -1).any(axis=1)])
        if made is not None and different.size:
            best = dequantize(made[different], int(tensor_type), different.size * wanted.shape[1])
            worse = (
                errors[different]
                > 1.02 * _errors(best.reshape(different.size, -1), wanted[different]) + limits[different] * 1e-4
            )
            suspects = np.union1d(suspects, different[worse])
        shares = np.where(limits > 0, errors / np.where(limits > 0, limits, 1), 0) * limit
        shares = np.where(np.isfinite(shares), shares, np.inf)
        squares = np.square(found - wanted, dtype=np.float64).sum()
    worst = int(np.argmax(shares))
    return Comparison(
        blocks=blocks,
        different=different,
        damaged=suspects,
        squared_error=float(squares),
        squared_weights=float(np.square(wanted, dtype=np.float64).sum()),
        worst=float(shares[worst]),
        worst_block=worst,
    )


def _errors(found: Array, wanted: Array) -> Array:
    """RMS error of each block."""
    errors: Array = np.sqrt(np.square(found - wanted).mean(axis=1))
    return errors


def _staircases(wanted: Array, found: Array, group: int) -> tuple[Array, Array]:
    """Sort each group of neighbours that share a scale by the value that it has: the steps, and the weights on them."""
    values = found.reshape(-1, group)
    order = np.argsort(values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(wanted.reshape(-1, group), order, axis=1)


def _not_nearest(steps: Array, weights: Array) -> Array:
    """Tell in which groups a weight has not taken the nearest of the values that occur.

    Values that do not occur are not known, so the outermost ones may be clipped. No weight may lie beyond the middle of
    its step and the next, by more than a tolerated part of their distance.
    """
    rises = np.diff(steps, axis=1)
    middle = steps[:, :-1] + rises * 0.5
    highest, lowest = _extremes(weights)
    too_high = (rises > 0) & (highest - middle > _TOLERATED * rises)
    too_low = (rises > 0) & (middle - lowest > _TOLERATED * rises)
    away: Array = np.logical_or(too_high, too_low)
    return np.asarray(away.any(axis=1))


def _out_of_order(steps: Array, weights: Array) -> Array:
    """Tell in which groups a larger weight has taken a smaller value."""
    highest, lowest = _extremes(weights)
    return np.asarray(((np.diff(steps, axis=1) > 0) & (highest > lowest)).any(axis=1))


def _extremes(weights: Array) -> tuple[Array, Array]:
    """Between each place and the next: the largest weight before, and the smallest behind."""
    highest = np.maximum.accumulate(weights, axis=1)[:, :-1]
    lowest = np.minimum.accumulate(weights[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return highest, lowest
