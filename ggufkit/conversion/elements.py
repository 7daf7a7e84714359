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


def to_float32(source: Array, dtype: str) -> Array:
    """Decode stored elements (`dtype` as safetensors names it) to float32; exact but for F64, which is rounded."""
    if dtype in ("F32", "F64"):
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


def first_not_finite(encoded: Array, tensor_type: GGMLQuantizationType) -> int | None:
    """Find the first infinite or undefined element among encoded ones; None for types that cannot be looked into.

    All-ones exponents are the largest magnitudes of their sign, so two maxima tell: no temporary array is needed.
    """
    match tensor_type:
        case GGMLQuantizationType.F16:
            signed, unsigned, infinity = encoded.view(np.int16), encoded.view(np.uint16), 0x7C00
        case GGMLQuantizationType.BF16:
            signed, unsigned, infinity = encoded.view(np.int16), encoded.view(np.uint16), 0x7F80
        case GGMLQuantizationType.F32:
            signed, unsigned, infinity = encoded.view(np.int32), encoded.view(np.uint32), 0x7F800000
        case _:
            return None
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
        quantized: Array = quants.quantize(source.reshape(-1, columns), tensor_type)
        return quantized.reshape(-1)
    block, block_bytes = block_size(tensor_type)
    target = np.empty(source.size // block * block_bytes, np.uint8)
    library.quantize(np.ascontiguousarray(source), int(tensor_type), columns, target)
    return target
