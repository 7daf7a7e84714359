"""Rows of a model's tensors as numbers, and what they become in another type: encoded and decoded by libggml itself."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.scale_search import searched

Array = NDArray[Any]
Floats = NDArray[np.float32]

PLAIN = {TensorType.F32: "<f4", TensorType.F16: "<u2", TensorType.BF16: "<u2"}


def row_bytes(kind: TensorType, columns: int) -> int:
    """The bytes of a row of `columns` elements."""
    return columns // kind.block_size * kind.block_bytes


def rows_of(tensor: TensorInfo) -> tuple[int, int, int]:
    """Return (columns, rows of one expert, experts); a matrix has one expert."""
    columns, rows = tensor.shape[0], tensor.shape[1] if len(tensor.shape) > 1 else 1
    experts = 1
    for extent in tensor.shape[2:]:
        experts *= extent
    return columns, rows, experts


def read_bytes(descriptor: int, header: GgufHeader, tensor: TensorInfo, start: int, size: int) -> Array:
    """Read `size` bytes of a tensor from its byte `start`, as uint8.

    Raises:
        GgufFileError: the file has become shorter.
    """
    content = np.empty(size, np.uint8)
    view, done = memoryview(content.data), 0
    while done < size:
        count = os.preadv(descriptor, [view[done:]], tensor.offset + start + done)
        if not count:
            raise GgufFileError(f"{header.path} became shorter while {tensor.name!r} was read")
        done += count
    return content


def to_float32(library: Ggml, content: Array, kind: TensorType) -> Floats:
    """Return the elements of whole rows (uint8) as float32, one after the other."""
    if kind in {TensorType.F16, TensorType.BF16}:
        halves = content.view("<u2")
        wide = np.empty(halves.size, np.float32)
        library.to_float32(halves, kind.name, wide)
        return wide
    if kind is TensorType.F32:
        return content.view("<f4")
    return dequantize(content, int(kind), content.size // kind.block_bytes * kind.block_size)


def from_float32(library: Ggml, values: Floats, kind: TensorType) -> Array:
    """Return float32 elements as bytes (uint8) of F32, F16 or BF16."""
    if kind is TensorType.F32:
        return np.ascontiguousarray(values, "<f4").view(np.uint8)
    halves = np.empty(values.size, "<u2")
    library.from_float32(np.ascontiguousarray(values), kind.name, halves)
    return halves.view(np.uint8)


def through(
    library: Ggml,
    values: Floats,
    kind: TensorType,
    columns: int,
    importance: Floats | None,
    *,
    search_scales: bool = False,
) -> Floats:
    """Return what whole rows of `columns` elements are after they were stored as `kind`.

    `importance` holds one float32 for each column, as llama-quantize takes it from an importance matrix. With
    `search_scales` they are stored as `quantize` stores them when it searches for scales.
    """
    if kind in PLAIN:
        return to_float32(library, from_float32(library, values, kind), kind)
    encoded = encoded_as(library, values, kind, columns, importance)
    if search_scales:
        encoded = searched(values, encoded, kind, columns, importance)
    return dequantize(encoded, int(kind), values.size)


def encoded_as(library: Ggml, values: Floats, kind: TensorType, columns: int, importance: Floats | None) -> Array:
    """Return whole rows of `columns` elements as they are stored in a quantized type, uint8. As `through`."""
    values = np.ascontiguousarray(values)
    encoded = np.empty(values.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(
        values, int(kind), columns, encoded, None if importance is None else np.ascontiguousarray(importance)
    )
    if kind is TensorType.Q4_0:  # rows on a lattice are stored as `quantize` stores them
        found, packed = pack_rows(values.reshape(-1, columns))
        encoded.reshape(len(found), -1)[found] = packed
    return encoded


def importance_of(values: Mapping[str, Floats], tensor: TensorInfo, expert: int) -> Floats | None:
    """Return the importance of each column of one expert of a tensor, None where none was measured."""
    columns, _, experts = rows_of(tensor)
    found = values.get(tensor.name)
    if found is None or found.size != columns * experts:
        return None
    return found[expert * columns : (expert + 1) * columns]
