"""Copies of a model, and of its importance matrix, with some channels scaled by powers of two."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.equalization.outliers import Equalization, Exponents
from ggufkit.allocation.measuring import copy_file
from ggufkit.allocation.weights import from_float32, read_bytes, row_bytes, to_float32
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent

_AT_ONCE = 1 << 24  # elements
_SQUARES = ".in_sum2"
_STAGE = "Equalizing"


def write_equalized(
    headers: Sequence[GgufHeader],
    copies: Sequence[Path],
    found: Equalization,
    library: Ggml,
    progress: Progress = silent,
) -> None:
    """Copy a model's files, and scale the channels of the copies.

    Numbers in BF16 and F32 stay exact, but for those of next to no size; so do those in F16 that stay above 6e-5, its
    smallest normal number. Below, up to 3e-8 of a number is lost.

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
                    _scale(descriptor, header, tensor, functools.partial(found.added, tensor.name), library)
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
            exponents = columns.get(tensor.name.removesuffix(_SQUARES))
            if exponents is not None and tensor.name.endswith(_SQUARES):
                _scale(descriptor, header, tensor, _squared(exponents), library)


def _squared(exponents: Exponents) -> Callable[[int, int], NDArray[np.int32]]:
    added = -2 * exponents[None].astype(np.int32)
    return lambda _start, _end: added


def _scale(
    descriptor: int,
    header: GgufHeader,
    tensor: TensorInfo,
    added: Callable[[int, int], NDArray[np.int32]],
    library: Ggml,
) -> None:
    """Add to the exponents of a tensor in an open copy; `added` says what, for rows from one to another."""
    columns, size = tensor.shape[0], row_bytes(tensor.type, tensor.shape[0])
    rows = tensor.elements // columns
    step = max(1, _AT_ONCE // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        content = read_bytes(descriptor, header, tensor, start * size, count * size)
        values = to_float32(library, content, tensor.type).reshape(count, columns)
        scaled = np.ldexp(values, added(start, start + count))
        stored = from_float32(library, scaled.reshape(-1), tensor.type)
        os.pwrite(descriptor, stored.tobytes(), tensor.offset + start * size)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
