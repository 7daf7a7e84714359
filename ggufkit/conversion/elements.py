"""Element types: from what a checkpoint stores to what a GGUF file holds, by libggml when it is built, else by numpy.

All arrays here are one-dimensional. F16 and BF16 travel as uint16: moving them needs no arithmetic.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from ggufkit.gguf_file.writer import block_size
from ggufkit.llamacpp import ggml

Array = NDArray[Any]

STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<u2"),
    "BF16": np.dtype("<u2"),
}
_HALVES = {GGMLQuantizationType.F16: "F16", GGMLQuantizationType.BF16: "BF16"}
_PLAIN = {GGMLQuantizationType.F32: "F32", **_HALVES}


def to_float32(source: Array, dtype: str) -> Array:
    """Decode stored elements (`dtype` as safetensors names it) to float32; exact but for F64, which is rounded."""
    if dtype in ("F32", "F64"):
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported as such
            return source.astype(np.float32, copy=False)
    if library := ggml.load():
        target = np.empty(source.size, np.float32)
        library.to_float32(source, dtype, target)
        return target
    if dtype == "F16":
        return source.view(np.float16).astype(np.float32)
    return (source.astype(np.uint32) << 16).view(np.float32)


def encode(source: Array, dtype: str, tensor_type: GGMLQuantizationType, columns: int) -> Array:
    """Encode stored elements as a ggml type; `columns` is the length of a row. Returns the bytes, as some array."""
    if _HALVES.get(tensor_type) == dtype:
        return source
    if tensor_type == GGMLQuantizationType.F32:
        return to_float32(source, dtype)
    if tensor_type in _HALVES:
        return _to_half(source, dtype, _HALVES[tensor_type])
    return _quantize(to_float32(source, dtype), tensor_type, columns)


def first_misfit(source: Array, dtype: str, encoded: Array, tensor_type: GGMLQuantizationType) -> int | None:
    """Find the first element that is infinite or undefined, or became so when `source` was encoded; None is well."""
    if tensor_type in _PLAIN:
        return first_not_finite(encoded, _PLAIN[tensor_type])
    # A block swallows what is not finite, so the source is looked at; and its scale is a float16, which overflows.
    index = first_not_finite(source, dtype)
    if index is not None:
        return index
    elements, size = block_size(tensor_type)
    block = first_not_finite(encoded.reshape(-1, size)[:, :2].copy().reshape(-1).view(np.uint16), "F16")
    if block is None:
        return None
    start = block * elements
    return start + int(np.argmax(np.abs(to_float32(source[start : start + elements], dtype))))


def first_not_finite(elements: Array, dtype: str) -> int | None:
    """Find the first infinite or undefined element (`dtype` as safetensors names it).

    All-ones exponents are the largest magnitudes of their sign, so two maxima tell: no temporary array is needed.
    """
    match dtype:
        case "F16":
            signed, unsigned, infinity = elements.view(np.int16), elements.view(np.uint16), 0x7C00
        case "BF16":
            signed, unsigned, infinity = elements.view(np.int16), elements.view(np.uint16), 0x7F80
        case "F32":
            signed, unsigned, infinity = elements.view(np.int32), elements.view(np.uint32), 0x7F800000
        case _:
            finite = np.isfinite(elements)
            return None if finite.all() else int(np.argmin(finite))
    sign = 1 << (8 * unsigned.itemsize - 1)
    if signed.size == 0 or (signed.max() < infinity and unsigned.max() < sign | infinity):
        return None
    return int(np.argmax((unsigned & (sign - 1)) >= infinity))


def _to_half(source: Array, dtype: str, kind: str) -> Array:
    target = np.empty(source.size, np.uint16)
    library = ggml.load()
    if library is None:
        return _to_half_by_numpy(to_float32(source, dtype), kind)
    if dtype in ("F16", "BF16"):
        library.between_halves(source, dtype, kind, target)
    else:
        library.from_float32(to_float32(source, dtype), kind, target)
    return target


def _to_half_by_numpy(source: Array, kind: str) -> Array:
    if kind == "F16":
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported as such
            return source.astype(np.float16).view(np.uint16)
    rounded: Array = quants.quantize(source, GGMLQuantizationType.BF16)
    return rounded.view(np.uint16)


def _quantize(source: Array, tensor_type: GGMLQuantizationType, columns: int) -> Array:
    library = ggml.load()
    if library is None:
        with np.errstate(all="ignore"):  # what is not finite is reported by `first_misfit`
            quantized: Array = quants.quantize(source.reshape(-1, columns), tensor_type)
        return quantized.reshape(-1)
    block, block_bytes = block_size(tensor_type)
    target = np.empty(source.size // block * block_bytes, np.uint8)
    library.quantize(np.ascontiguousarray(source), int(tensor_type), columns, target)
    return target
