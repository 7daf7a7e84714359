"""Copies of a model, and of its importance matrix, with some channels scaled."""

import contextlib
import functools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ggufkit.allocation.equalization.factors import Equalization, of_some_rows
from ggufkit.allocation.measuring import copy_file
from ggufkit.allocation.weights import Floats, from_float32, read_bytes, row_bytes, to_float32
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent

_AT_ONCE = 1 << 24  # elements
_LARGEST_OF_F16 = 65504.0
_SQUARES = ".in_sum2"
_STAGE = "Equalizing"

Multipliers = Callable[[int, int], Floats]  # of rows, from one to another


def write_equalized(
    headers: Sequence[GgufHeader],
    copies: Sequence[Path],
    found: Equalization,
    library: Ggml,
    progress: Progress = silent,
) -> None:
    """Copy a model's files, and scale the channels of the copies.

    Numbers are rounded once more, to their type: F16 loses 2^-12 of them, where Q8_0 loses ten times as much. BF16,
    which would lose 2^-9, becomes F16 in tensors that are scaled, if it has no numbers that are too large.

    Raises:
        OutputError: there is no room.
        GgufFileError: a file has become shorter.
    """
    changed = {*found.columns, *found.rows}
    total, done = sum(tensor.name in changed for header in headers for tensor in header.tensors), 0
    for header, copy in zip(headers, copies, strict=True):
        copy_file(header.path, copy)
        with _writable(copy) as descriptor:
            for tensor in header.tensors:
                if tensor.name in changed:
                    progress(_STAGE, done, total, "steps")
                    multipliers = functools.partial(found.of_rows, tensor)
                    stored = _stored_type(descriptor, header, tensor, multipliers, library)
                    _scale(descriptor, header, tensor, multipliers, stored, library)
                    if stored is not tensor.type:
                        _retype(descriptor, header, tensor, stored)
                    done += 1
    progress(_STAGE, done, total, "steps")


def write_equalized_matrix(matrix: Path, copy: Path, found: Equalization, library: Ggml) -> None:
    """Copy an importance matrix, a GGUF file, as it is of the equalized model: inputs shrink as columns grow.

    Raises:
        GgufFileError: it is no GGUF file.
        OutputError: there is no room.
    """
    header = read_header(matrix)
    columns = found.columns
    copy_file(matrix, copy)
    with _writable(copy) as descriptor:
        for tensor in header.tensors:
            factors = columns.get(tensor.name.removesuffix(_SQUARES))
            if factors is not None and tensor.name.endswith(_SQUARES):
                _scale(descriptor, header, tensor, _shrinking(factors, tensor), tensor.type, library)


def _shrinking(factors: Floats, tensor: TensorInfo) -> Multipliers:
    squares = np.reciprocal(np.square(factors))
    return functools.partial(of_some_rows, squares, tensor.elements // tensor.shape[0])


def _stored_type(
    descriptor: int, header: GgufHeader, tensor: TensorInfo, multipliers: Multipliers, library: Ggml
) -> TensorType:
    if tensor.type is not TensorType.BF16:
        return tensor.type
    largest = max(
        float(np.abs(scaled).max()) for _, scaled in _scaled(descriptor, header, tensor, multipliers, library)
    )
    return TensorType.F16 if largest <= _LARGEST_OF_F16 else tensor.type


def _scale(
    descriptor: int,
    header: GgufHeader,
    tensor: TensorInfo,
    multipliers: Multipliers,
    stored: TensorType,
    library: Ggml,
) -> None:
    """Multiply a tensor in an open copy."""
    for start, scaled in _scaled(descriptor, header, tensor, multipliers, library):
        os.pwrite(descriptor, from_float32(library, scaled, stored).tobytes(), tensor.offset + start)


def _scaled(
    descriptor: int, header: GgufHeader, tensor: TensorInfo, multipliers: Multipliers, library: Ggml
) -> Iterator[tuple[int, Floats]]:
    """Read a tensor, some rows at a time: yield at which byte they start, and what their numbers become."""
    columns, size = tensor.shape[0], row_bytes(tensor.type, tensor.shape[0])
    rows = tensor.elements // columns
    step = max(1, _AT_ONCE // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        content = read_bytes(descriptor, header, tensor, start * size, count * size)
        values = to_float32(library, content, tensor.type).reshape(count, columns)
        yield start * size, (values * multipliers(start, start + count)).reshape(-1)


def _retype(descriptor: int, header: GgufHeader, tensor: TensorInfo, stored: TensorType) -> None:
    """Say in the header of an open copy that a tensor has another type, of the same size."""
    name = tensor.name.encode()
    said = struct.pack(f"<Q{len(name)}sI{len(tensor.shape)}Q", len(name), name, len(tensor.shape), *tensor.shape)
    start = os.pread(descriptor, header.data_offset, 0).rindex(said) + len(said)
    os.pwrite(descriptor, struct.pack("<I", int(stored)), start)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
