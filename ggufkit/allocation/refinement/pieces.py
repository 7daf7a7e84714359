"""The matrices that are refined: read from the model, and written to its copy."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.weights import read_bytes, row_bytes, rows_of, to_float32
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.llamacpp.input_reader import of_expert

ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Piece:
    """A matrix, which is a tensor or one of its stacked experts.

    It is read from the descriptor `here`, the model's, and written to `there`, the copy's.
    """

    header: GgufHeader
    tensor: TensorInfo
    expert: int
    here: int
    there: int

    @property
    def name(self) -> str:
        """The tensor's name, and which of its experts it is."""
        return self.tensor.name if rows_of(self.tensor)[2] == 1 else of_expert(self.tensor.name, self.expert)

    @property
    def columns(self) -> int:
        """The length of a row."""
        return self.tensor.shape[0]

    @property
    def is_read_at_once(self) -> bool:
        """Whether `rows` yields all of them together."""
        return rows_of(self.tensor)[1] <= ROWS_AT_ONCE

    def rows(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Yield some rows of the untouched matrix at a time, as bytes, and where they are in the file."""
        columns, rows, _ = rows_of(self.tensor)
        size = row_bytes(self.tensor.type, columns)
        for first in range(0, rows, ROWS_AT_ONCE):
            start, count = (self.expert * rows + first) * size, min(ROWS_AT_ONCE, rows - first)
            yield read_bytes(self.here, self.header, self.tensor, start, count * size), self.tensor.offset + start

    def weights(self, library: Ggml) -> NDArray[np.float32]:
        """Return the whole untouched matrix, float32 [n_out, n_in]."""
        parts = [to_float32(library, content, self.tensor.type) for content, _ in self.rows()]
        return np.concatenate(parts).reshape(-1, self.columns)

    def write(self, content: NDArray[Any], offset: int) -> None:
        """Write rows to the copy, where `rows` has said that they are."""
        view, done = memoryview(np.ascontiguousarray(content).data), 0
        while done < len(view):
            done += os.pwrite(self.there, view[done:], offset + done)


def pieces_of(
    sources: Sequence[Path], copies: Sequence[Path], types: Mapping[str, TensorType], stack: ExitStack
) -> list[Piece]:
    """Open the matrices that get a quantized type, in the order of the files; `stack` closes them."""
    pieces = []
    for source, copy in zip(sources, copies, strict=True):
        header = read_header(source)
        here = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, here)
        there = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, there)
        for tensor in header.tensors:
            kind = types.get(tensor.name)
            if kind is not None and kind.is_quantized:
                pieces += [Piece(header, tensor, expert, here, there) for expert in range(rows_of(tensor)[2])]
    return pieces
