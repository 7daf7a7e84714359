"""One output of the direct engine: a file in which pieces of tensors appear, in any order, from several threads."""

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import GgufFileError
from ggufkit.files import PartialFile, begin_writing_back
from ggufkit.gguf_file.rewrite import NewFile
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.direct.journal import Journal
from ggufkit.quantization.importance import ImportanceMatrix, Values
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.scale_search import VERSION, searched

Array: TypeAlias = NDArray[Any]

_PIECES_VERSION = 1  # of how sources are cut into pieces; a journal of another version is not taken up


@dataclass(frozen=True, slots=True)
class _Target:
    """A tensor of the output."""

    type: TensorType
    offset: int
    importance: Values | None


class Output:
    """A partial file with its journal. Several threads may bring rows; one writes at a time."""

    def __init__(
        self, file: PartialFile, plan: QuantizationPlan, layout: NewFile, matrix: ImportanceMatrix | None, source: str
    ) -> None:
        """Open the file, which must exist; take it up where it was left, if it was the same `source` and recipe."""
        self._targets = _targets(plan, layout, matrix)
        self._search_scales = plan.options.search_scales
        self.on_lattice: set[str] = set()  # tensors with rows that were on a lattice, and are stored as they were
        self._lock = threading.Lock()
        recipe = hashlib.sha256(layout.header)
        recipe.update(f"{_PIECES_VERSION} {source}".encode())
        if self._search_scales:
            recipe.update(f"scales searched {VERSION}".encode())
        if matrix is not None:
            recipe.update(hashlib.sha256(matrix.path.read_bytes()).digest())
        self._descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
        self._journal = Journal(file.journal, file.path, recipe.hexdigest())
        os.ftruncate(self._descriptor, layout.size)  # the padding between tensors is zero bytes
        self._write(np.frombuffer(layout.header, np.uint8), 0)

    def close(self) -> None:
        """Close the file and the journal."""
        self._journal.close()
        os.close(self._descriptor)

    def has(self, tensor: str, place: int) -> bool:
        """Whether the piece that begins there was written by a run that was interrupted."""
        return self._journal.has(tensor, place)

    def type_of(self, tensor: str) -> TensorType:
        """The type that a tensor has in this file."""
        return self._targets[tensor].type

    def copy(self, tensor: str, place: int, rows: Array) -> tuple[int, Array]:
        """Write rows as they are; return where, and what."""
        return self._write(rows, self._targets[tensor].offset + place)

    def quantize(
        self, library: Ggml, tensor: str, row: int, columns: int, expert: int, values: Array
    ) -> tuple[int, Array]:
        """Write rows of float32, `row` being the first and all of one expert, quantized; return where, and what.

        Raises:
            GgufFileError: the result is not finite.
        """
        target = self._targets[tensor]
        importance = target.importance
        if importance is not None:
            importance = importance[expert * columns : (expert + 1) * columns]
        encoded = np.empty(bytes_of(target.type, values.size), np.uint8)
        library.quantize(values, int(target.type), columns, encoded, importance)
        if target.type is TensorType.Q4_0:
            found, packed = pack_rows(values.reshape(-1, columns))
            if len(packed):
                encoded.reshape(len(found), -1)[found] = packed
                self.on_lattice.add(tensor)
        if self._search_scales:
            encoded = searched(values, encoded, target.type, columns, importance)
        if not library.is_valid(encoded, int(target.type)):
            raise GgufFileError(f"tensor {tensor!r} cannot be {target.type.name}: the result is not finite")
        return self._write(encoded, target.offset + row * bytes_of(target.type, columns))

    def note(self, tensor: str, place: int, written: list[tuple[int, Array]]) -> None:
        """Note that the piece that begins there is whole: an interrupted run may rely on it."""
        self._journal.add(tensor, place, written)

    def _write(self, data: Array, offset: int) -> tuple[int, Array]:
        whole = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        view, done = memoryview(whole.data), 0
        with self._lock:  # the kernel would let the other threads spin
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset + done)
            begin_writing_back(self._descriptor, offset, len(view))
        return offset, whole


def _targets(plan: QuantizationPlan, layout: NewFile, matrix: ImportanceMatrix | None) -> Mapping[str, _Target]:
    targets = {}
    for planned, placed in zip(plan.tensors, layout.tensors, strict=True):
        values = matrix.values.get(planned.name) if matrix is not None else None
        columns, _, slices = (*planned.shape, 1, 1, 1)[:3]
        if values is not None and values.size != columns * slices:
            values = None  # only token embeddings get past the plan so, and llama-quantize takes none for them either
        targets[placed.name] = _Target(placed.type, placed.offset, values)
    return targets


def bytes_of(kind: TensorType, elements: int) -> int:
    """Count the bytes that so many elements of a type take."""
    return elements // kind.block_size * kind.block_bytes
