"""Integers with scales for the tensor, for each output, or for groups of inputs; with or without zero points."""

import math
from collections.abc import Callable

import numpy as np

from ggufkit.checkpoints.source_quantization._blocks import integer_blocks
from ggufkit.checkpoints.source_quantization._packed import WORD, unpack, words_for
from ggufkit.checkpoints.source_quantization._reading import Array, read_all, read_scales
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor
from ggufkit.checkpoints.tensors import Shape, StoredTensor
from ggufkit.errors import CheckpointError

Rows = Callable[[range], Array]


def grouped_weight(
    name: str,
    shape: Shape,
    codes: Rows,
    scale: StoredTensor,
    *,
    bits: int,
    group: int | None = None,
    parts: tuple[StoredTensor, ...],
    zeros: Rows | None = None,
    order: StoredTensor | None = None,
) -> DequantizedTensor:
    """Make the weight (code - zero) * scale, [rows, columns].

    For rows i..j, `codes` gives integers [j - i, columns], signed unless there are `zeros`, which are [j - i, groups].
    `group` is the columns that share a scale by the config, None for what the scale's shape says. `order` holds the
    group of each column, int32 [columns], where they are not in order (activation ordering, g_idx).

    Raises:
        CheckpointError: the scale's shape does not fit the weight's, or not the group size of the config.
    """
    rows, columns = shape
    groups = _groups(scale, shape)
    width = group if group is not None and 0 < group <= columns else -(-columns // groups)
    if group is not None and group > 0 and groups != -(-columns // group):
        raise CheckpointError(
            f"tensor {scale.name!r} has {groups} scales for each of {rows} rows of {columns}, "
            f"but by the config's group size of {group} there are {-(-columns // group)}"
        )
    whole = math.prod(scale.shape) == 1

    def scales(part: range) -> Array:
        found = read_scales(scale) if whole else read_scales(scale, part)
        return np.broadcast_to(found.reshape(1 if whole else len(part), -1), (len(part), groups))

    def spread(values: Array, places: Array | None) -> Array:
        if places is not None:
            return values[:, places]
        return values if groups == 1 else np.repeat(values, width, axis=1)[:, :columns]

    def decode(part: range) -> Array:
        places = _places(order, groups, width)
        values = codes(part).astype(np.float32)
        if zeros is not None:
            values -= spread(zeros(part).astype(np.float32), places)
        values *= spread(scales(part), places)
        return values

    def blocks() -> Blocks | None:
        if _places(order, groups, width) is not None:
            return None
        return integer_blocks(shape, width, bits, codes=codes, scales=scales, zeros=zeros)

    return DequantizedTensor(name, shape, parts, decode, blocks)


def describe(scale: StoredTensor, shape: Shape, group: int | None) -> str:
    """Say in words what a scale is for. Raises CheckpointError when it does not fit."""
    if group:
        return f"group {group}"
    if math.prod(scale.shape) == 1:
        return "tensor"
    groups = _groups(scale, shape)
    return "channel" if groups == 1 else f"group {-(-shape[1] // groups)}"


def _groups(scale: StoredTensor, shape: Shape) -> int:
    if math.prod(scale.shape) == 1 or scale.shape in (shape[:1], (shape[0], 1)):
        return 1
    if len(scale.shape) == 2 and scale.shape[0] == shape[0] and 0 < scale.shape[1] <= shape[1]:
        return scale.shape[1]
    raise CheckpointError(f"tensor {scale.name!r} has shape {scale.shape}, which does not fit a weight of {shape}")


def _places(order: StoredTensor | None, groups: int, width: int) -> Array | None:
    """Read which group each column belongs to; None where that is their order."""
    if order is None:
        return None
    places = read_all(order).astype(np.int64)
    if (places == -1).all():  # made, and never filled in
        return None
    if places.min() < 0 or places.max() >= groups:
        raise CheckpointError(
            f"tensor {order.name!r} names groups from {places.min()} to {places.max()}, there are {groups}"
        )
    return None if (places == np.arange(len(places)) // width).all() else places


def unpack_rows(words: Array, bits: int, count: int) -> Array:
    """Unpack int32 words along the last axis, [rows, words], to uint8 [rows, count], from the lowest bit on.

    Values of 3, 5, 6 or 7 bits cross from word to word; where there are words enough for whole values in each (as
    compressed-tensors wrote them before version 0.15), they do not.
    """
    if WORD % bits == 0:
        held = np.ascontiguousarray(words).view(np.uint8)
        found: Array = np.empty((len(held), held.shape[1], 8 // bits), np.uint8)
        for place in range(8 // bits):
            found[..., place] = (held >> (bits * place)) & (2**bits - 1)
        return found.reshape(len(held), -1)[:, :count]
    if words.shape[1] == words_for(count, bits):
        return unpack(words.T, count, bits).T
    shifts = np.arange(0, WORD - bits + 1, bits, dtype=np.uint32)
    whole = (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return whole.astype(np.uint8).reshape(len(words), -1)[:, :count]


def row_words(count: int, bits: int) -> tuple[int, ...]:
    """Give the numbers of words in which a row of so many values may be stored."""
    return words_for(count, bits), -(-count // (WORD // bits))
