"""Integers and scales as others store them, in the blocks of GGUF types that hold the very same weights.

Layouts: ggml/src/ggml-common.h (block_q4_0, block_q4_1, block_q8_0, block_mxfp4, block_nvfp4). Codes are
[rows, columns], scales [rows, groups]; a group is a multiple of 32 columns, of which each block gets the scale.
"""

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType

from ggufkit.checkpoints.source_quantization._reading import Array
from ggufkit.checkpoints.source_quantization._weights import Blocks
from ggufkit.checkpoints.tensors import Shape
from ggufkit.errors import CheckpointError

_BLOCK = 32
_SUPER, _SUB = 64, 16  # NVFP4: elements of a block, and of those that share a scale
_HALF_ROUNDING = 2.0**-11  # of a normal float16; below those, the rounding grows


def integer_blocks(
    shape: Shape,
    group: int,
    bits: int,
    *,
    codes: Callable[[range], Array],
    scales: Callable[[range], Array],
    zeros: Callable[[range], Array] | None = None,
) -> Blocks | None:
    """Keep integers as Q4_0 or Q4_1 (up to 4 bits) or Q8_0; None when no block holds these weights.

    For rows i..j, `codes` gives integers [j - i, columns], `scales` float32 [j - i, groups] and `zeros` integers
    [j - i, groups]: the weight is (code - zero) * scale. Without `zeros` they are all zero, and the codes are signed:
    from -2^(bits-1) on. With them, codes are from 0 on. All scales (and zeros) are read here, not the codes.
    """
    rows, columns = shape
    if len(shape) != 2 or columns % _BLOCK or group % _BLOCK or bits > 8:
        return None
    every = scales(range(rows))
    if not holds_scales(every):
        return None
    per_group = group // _BLOCK
    lowest = -(2 ** (bits - 1))
    offsets: Array | None = None
    if zeros is not None:
        offsets = zeros(range(rows))
        if (offsets == -lowest).all():
            offsets = None  # as good as signed
            unsigned, codes = codes, lambda part: unsigned(part).astype(np.int16) + np.int16(lowest)

    if offsets is None:
        encode = _q4_0 if bits <= 4 else _q8_0
        kind = GGMLQuantizationType.Q4_0 if bits <= 4 else GGMLQuantizationType.Q8_0
        return Blocks(kind, lambda part: encode(codes(part), _spread(scales(part), per_group, columns)))
    if bits > 4 or zeros is None or not holds_scales(every * offsets):
        return None
    zero_points = zeros

    def with_minimum(part: range) -> Array:
        found = scales(part)
        minimum = _spread(-found * zero_points(part), per_group, columns)
        return _q4_1(codes(part), _spread(found, per_group, columns), minimum)

    return Blocks(GGMLQuantizationType.Q4_1, with_minimum)


def holds_scales(scales: Array) -> bool:
    """Tell whether float16 holds these scales, rounded by no more than its own precision."""
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float32)
    return bool((np.abs(rounded - scales) <= np.abs(scales) * np.float32(_HALF_ROUNDING)).all())


def mxfp4(codes: Array, exponents: Array) -> Array:
    """Pack E2M1 codes, uint8 [rows, columns], and biased exponents, uint8 [rows, columns / 32], as block_mxfp4.

    The exponent is the same number: ggml halves the scale and doubles the values.
    """
    rows, columns = codes.shape
    blocks: Array = np.empty((rows, columns // _BLOCK, 17), np.uint8)
    blocks[..., 0] = exponents
    blocks[..., 1:] = _nibbles(codes.reshape(rows, -1, _BLOCK))
    return blocks.reshape(rows, -1)


def nvfp4(codes: Array, scales: Array) -> Array:
    """Pack E2M1 codes, uint8 [rows, columns], and E4M3 scales, uint8 [rows, columns / 16], as block_nvfp4."""
    rows, columns = codes.shape
    supers = columns // _SUPER
    blocks: Array = np.empty((rows, supers, 36), np.uint8)
    blocks[..., :4] = scales.reshape(rows, supers, 4)
    blocks[..., 4:] = _nibbles(codes.reshape(rows, supers, 4, _SUB)).reshape(rows, supers, 32)
    return blocks.reshape(rows, -1)


def _nibbles(codes: Array) -> Array:
    """Pack each run of 2n codes into n bytes: the first half in the low nibbles, the second in the high ones."""
    half = codes.shape[-1] // 2
    low, high = codes[..., :half].astype(np.uint8), codes[..., half:].astype(np.uint8)
    packed: Array = low | (high << 4)
    return packed


def _spread(values: Array, per_group: int, columns: int) -> Array:
    """Give every block the value of its group: float16 [rows, blocks]."""
    return np.repeat(values, per_group, axis=1)[:, : columns // _BLOCK].astype("<f2")


def _with_halves(halves: list[Array], codes: Array) -> Array:
    parts = [np.ascontiguousarray(half)[..., None].view(np.uint8) for half in halves]
    blocks = np.concatenate([*parts, codes], axis=-1)
    return blocks.reshape(len(blocks), -1)


def _q4_0(codes: Array, scales: Array) -> Array:
    _require(codes, -8, 7)
    shifted = (codes.astype(np.int16) + 8).astype(np.uint8).reshape(len(codes), -1, _BLOCK)
    return _with_halves([scales], _nibbles(shifted))


def _q4_1(codes: Array, scales: Array, minimums: Array) -> Array:
    _require(codes, 0, 15)
    return _with_halves([scales, minimums], _nibbles(codes.reshape(len(codes), -1, _BLOCK)))


def _q8_0(codes: Array, scales: Array) -> Array:
    _require(codes, -128, 127)
    return _with_halves([scales], codes.astype(np.int8).view(np.uint8).reshape(len(codes), -1, _BLOCK))


def _require(codes: Array, lowest: int, highest: int) -> None:
    """Refuse integers of more bits than the config said. Raises CheckpointError."""
    if codes.size and (int(codes.min()) < lowest or int(codes.max()) > highest):
        raise CheckpointError(
            f"quantized weights go from {codes.min()} to {codes.max()}, by the config's bits from {lowest} to {highest}"
        )
