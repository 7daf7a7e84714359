"""Rows that llama-quantize has stored, beside those of its source: what can be stored better is written over them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.crew import work_through
from ggufkit.gguf_file.reader import TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.planned import PlannedTensor

_ELEMENTS_AT_ONCE = 1 << 20
_STORED = {TensorType.F32: "<f4", TensorType.F16: "<u2", TensorType.BF16: "<u2"}


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Some rows of one matrix: a tensor, or one expert of it.

    `values` are float32 [n_rows, n_columns], `encoded` what is stored of them, uint8 [n_rows, bytes of a row].
    """

    tensor: PlannedTensor
    expert: int
    values: NDArray[np.float32]
    encoded: NDArray[np.uint8]


def is_plain(tensor: PlannedTensor) -> bool:
    """Whether the source's weights are there as numbers."""
    return tensor.was in _STORED


def rewrite(
    library: Ggml,
    plan: QuantizationPlan,
    written: Sequence[Path],
    wanted: Mapping[str, PlannedTensor],
    better: Callable[[StoredRows], NDArray[np.uint8] | None],
    *,
    threads: int = 1,
    report: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - the signature
) -> set[str]:
    """Ask what is to be stored instead for all rows of the tensors in `wanted`; return the names of those that changed.

    `better` says None, or the bytes of all of these rows. `report` hears how many weights are done.

    Raises:
        OSError: a file cannot be read or written.
    """
    changed: set[str] = set()
    with ExitStack() as stack:
        sources: dict[str, tuple[TensorInfo, int]] = {}
        for path in plan.sources:
            descriptor = _opened(path, os.O_RDONLY, stack)
            sources |= {tensor.name: (tensor, descriptor) for tensor in read_header(path).tensors}
        targets = []
        for path in written:
            descriptor = _opened(path, os.O_RDWR, stack)
            targets += [(tensor, descriptor) for tensor in read_header(path).tensors if tensor.name in wanted]

        def work(piece: tuple[TensorInfo, int, int, int]) -> int:
            target, there, row, count = piece
            planned = wanted[target.name]
            source, here = sources[planned.source_name or planned.name]
            columns, own = source.shape[0], _row_bytes(target)
            values = _values(library, source, here, row, count)
            offset = target.offset + row * own
            encoded = np.frombuffer(os.pread(there, count * own, offset), np.uint8).reshape(-1, own)
            if len(values) != count or len(encoded) != count:
                return count * columns  # a file became shorter, which others notice
            found = better(StoredRows(planned, row // _rows_of_expert(target), values, encoded))
            if found is not None and found.tobytes() != encoded.tobytes():
                os.pwrite(there, found.tobytes(), offset)
                changed.add(target.name)
            return count * columns

        work_through(_pieces(targets), work, threads=threads, report=report)
    return changed


def _pieces(targets: Sequence[tuple[TensorInfo, int]]) -> Iterator[tuple[TensorInfo, int, int, int]]:
    """Cut tensors into rows that are not too much at once, and of one expert."""
    for tensor, descriptor in targets:
        columns, of_expert = tensor.shape[0], _rows_of_expert(tensor)
        most, rows = max(1, _ELEMENTS_AT_ONCE // columns), tensor.elements // columns
        row = 0
        while row < rows:
            count = min(most, of_expert - row % of_expert)
            yield tensor, descriptor, row, count
            row += count


def _rows_of_expert(tensor: TensorInfo) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else 1


def _row_bytes(tensor: TensorInfo) -> int:
    return tensor.shape[0] // tensor.type.block_size * tensor.type.block_bytes


def _values(library: Ggml, source: TensorInfo, descriptor: int, row: int, count: int) -> NDArray[np.float32]:
    columns, own = source.shape[0], _row_bytes(source)
    stored: NDArray[Any] = np.frombuffer(
        os.pread(descriptor, count * own, source.offset + row * own), _STORED[source.type]
    )
    if source.type is not TensorType.F32:
        values = np.empty(stored.size, np.float32)
        library.to_float32(stored, source.type.name, values)
        stored = values
    return stored[: stored.size // columns * columns].reshape(-1, columns)


def _opened(path: Path, flags: int, stack: ExitStack) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor
