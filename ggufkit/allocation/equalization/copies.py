"""Copies of a model, and of its importance matrix, with some channels scaled."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ggufkit.allocation.equalization.factors import Equalization, of_some_rows
from ggufkit.allocation.measuring import copy_file
from ggufkit.allocation.weights import Floats, from_float32, read_bytes, row_bytes, rows_of, to_float32
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent

_AT_ONCE = 1 << 24  # elements
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

    Numbers are rounded once more, to the type that they have. Powers of two are exact in F32 and BF16, and in F16 for
    numbers above 6e-5.

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
                    _scale(descriptor, header, tensor, functools.partial(found.of_rows, tensor), library)
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
                _scale(descriptor, header, tensor, _shrinking(factors, tensor), library)


def _shrinking(factors: Floats, tensor: TensorInfo) -> Multipliers:
    squares = np.reciprocal(np.square(factors))
    return functools.partial(of_some_rows, squares, tensor.elements // tensor.shape[0])


def _scale(descriptor: int, header: GgufHeader, tensor: TensorInfo, multipliers: Multipliers, library: Ggml) -> None:
    """Multiply a tensor in an open copy, one expert after the other."""
    columns, each, experts = rows_of(tensor)
    size = row_bytes(tensor.type, columns)
    step = max(1, _AT_ONCE // columns)
    starts = (expert * each + row for expert in range(experts) for row in range(0, each, step))
    for start in starts:
        count = min(step, each - start % each)
        content = read_bytes(descriptor, header, tensor, start * size, count * size)
        values = to_float32(library, content, tensor.type).reshape(count, columns)
        with np.errstate(over="ignore"):  # what has no room in F16 is found when the copy is read
            scaled = values * multipliers(start, start + count)
        stored = from_float32(library, scaled.reshape(-1), tensor.type)
        os.pwrite(descriptor, stored.tobytes(), tensor.offset + start * size)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
