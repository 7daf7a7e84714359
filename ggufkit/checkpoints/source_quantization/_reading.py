"""Reading pieces of stored tensors as arrays: rows, columns, scales; and what is checked about them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

Array: TypeAlias = NDArray[Any]

# How each stored type is held in numpy; those that numpy does not know as their bits.
HELD: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
FLOATS = ("F32", "F16", "BF16", "F64")


def read_all(tensor: StoredTensor) -> Array:
    """Read a whole tensor, in its shape."""
    flat: Array = np.empty(math.prod(tensor.shape), HELD[tensor.dtype])
    tensor.read_into(flat.view(np.uint8).data)
    return flat.reshape(tensor.shape)


def read_rows(tensor: StoredTensor, rows: range) -> Array:
    """Read rows of the leading axis: [len(rows), *shape[1:]]."""
    held, width = HELD[tensor.dtype], math.prod(tensor.shape[1:])
    flat: Array = np.empty(len(rows) * width, held)
    tensor.read_into(flat.view(np.uint8).data, rows.start * width * held.itemsize)
    return flat.reshape(len(rows), *tensor.shape[1:])


def read_columns(tensor: StoredTensor, columns: range) -> Array:
    """Read columns of a matrix: [shape[0], len(columns)], by one small read for each row; take many at once."""
    held, width = HELD[tensor.dtype], tensor.shape[1]
    if len(columns) == width:
        return read_all(tensor)
    found: Array = np.empty((tensor.shape[0], len(columns)), held)
    for row, target in enumerate(found):
        tensor.read_into(target.view(np.uint8).data, (row * width + columns.start) * held.itemsize)
    return found


def to_float32(array: Array, dtype: str) -> Array:
    """Decode what `read_…` gave of a float type to float32; exact but for F64."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E8M0":  # a power of two, biased by 127; all ones is NaN (OCP MX 1.0, 5.4.1)
        exponents = array.astype(np.float32) - 127
        return np.where(array == 0xFF, np.float32(np.nan), np.exp2(exponents)).astype(np.float32)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return TABLES[dtype][array]
    return array.astype(np.float32, copy=False)


def read_scales(tensor: StoredTensor, rows: range | None = None) -> Array:
    """Read scales (rows of them, or all) as float32, and refuse what no scale can be.

    Raises:
        CheckpointError: a scale is NaN or infinite; the tensor's type holds no numbers.
    """
    if tensor.dtype not in (*FLOATS, "F8_E8M0", "F8_E4M3", "F8_E5M2"):
        raise CheckpointError(f"tensor {tensor.name!r} is of type {tensor.dtype}, which holds no scales")
    scales = to_float32(read_all(tensor) if rows is None else read_rows(tensor, rows), tensor.dtype)
    finite = np.isfinite(scales)
    if not finite.all():
        place = int(np.argmin(finite.reshape(-1)))
        before = rows.start * math.prod(tensor.shape[1:]) if rows is not None else 0
        value = float(scales.reshape(-1)[place])
        raise CheckpointError(
            f"tensor {tensor.name!r}, element {before + place} is {value}, which no scale can be",
            hint="the checkpoint is damaged, or was quantized from damaged weights",
        )
    return scales


def _table(exponent_bits: int, mantissa_bits: int) -> Array:
    """Decode all 256 values of an 8-bit float (OCP OFP8 1.0): E4M3 has no infinity, E5M2 is the upper half of F16."""
    codes = np.arange(256)
    if exponent_bits == 5:
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = (codes >> mantissa_bits) & 15, codes & 7
    normal, subnormal = np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6)
    values = np.where(exponent == 0, subnormal, normal) * np.where(codes & 0x80, -1.0, 1.0)
    values[(codes & 0x7F) == 0x7F] = np.nan
    return values.astype(np.float32)


TABLES: Mapping[str, Array] = {"F8_E4M3": _table(4, 3), "F8_E5M2": _table(5, 2)}


def require_shape(tensor: StoredTensor, expected: Iterable[int], why: str) -> None:
    """Refuse a part whose shape does not fit the others. Raises CheckpointError."""
    if tensor.shape != (wanted := tuple(expected)):
        raise CheckpointError(f"tensor {tensor.name!r} has shape {tensor.shape}, expected {wanted}: {why}")
