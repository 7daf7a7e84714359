"""Quantizing by libggml in our own process, straight into the final files, however many at once: the direct engine.

What it writes equals, byte for byte, what llama-quantize would have written from the same source. The source is either
a GGUF file or a conversion under way, whose tensors exist only a piece at a time: it is read once for all outputs, and
nothing but pieces is ever in memory.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.crew import work_through
from ggufkit.errors import GgufFileError, MissingDependencyError, UsageError
from ggufkit.gguf_file.reader import GgufHeader, Scalar, TensorInfo, ValueType, read_header
from ggufkit.gguf_file.rewrite import NewFile, PlacedTensor, rewrite
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.llamacpp import ggml
from ggufkit.progress import Progress
from ggufkit.quantization.importance import ImportanceMatrix, Values, load_importance
from ggufkit.quantization.plan import PlannedTensor, QuantizationPlan, stripped

Array: TypeAlias = NDArray[Any]
Sink: TypeAlias = Callable[[str, int, Array], None]
"""Takes the name of a tensor of the source, the place of some of its rows (bytes from its start), and those rows."""

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_PIECE_BYTES = 2**19
_ELEMENTS_AT_ONCE = 2**18  # of float32: a megabyte, which stays in the cache
_STORED = {TensorType.F32: "<f4", TensorType.F16: "<u2", TensorType.BF16: "<u2"}
_LONGEST_STRING = 127  # bytes: llama-quantize's room for the value of a key that it adds
_OVERRIDE_KINDS = {
    "int": ValueType.UINT32,
    "float": ValueType.FLOAT32,
    "bool": ValueType.BOOL,
    "str": ValueType.STRING,
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor in one output."""

    output: "_Output"
    type: TensorType
    offset: int
    importance: Values | None


@dataclass(slots=True)
class _Output:
    """A file that is being written. One thread writes at a time: the kernel would let the others spin."""

    descriptor: int
    lock: threading.Lock

    def write(self, data: Array, place: int) -> None:
        view = memoryview(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
        with self.lock:
            done = 0
            while done < len(view):
                done += os.pwrite(self.descriptor, view[done:], place + done)


def refuse_what_only_the_binary_does(plan: QuantizationPlan) -> None:
    """Refuse a plan that the direct engine cannot carry out.

    Raises:
        UsageError: a tensor of the source is in a type that it would have to be decoded from.
        MissingDependencyError: libggml is not built.
    """
    if ggml.load() is None:
        raise MissingDependencyError("libggml is not built, or not as one library", hint="ggufkit setup")
    for tensor in plan.tensors:
        if tensor.was not in _STORED and tensor.was is not tensor.to:
            raise UsageError(
                f"the direct engine takes F32, F16 and BF16 tensors, and {tensor.name!r} is {tensor.was.name}",
                hint="--engine binary",
            )


def headers(source: GgufHeader, plans: Sequence[QuantizationPlan]) -> list[NewFile]:
    """Lay out the output of each plan: the source's metadata, with the keys that llama-quantize adds.

    Raises:
        InputError: the importance matrix cannot be used.
        GgufFileError: the source has changed.
    """
    return [_new_file(source, plan, _importance(plan)) for plan in plans]


def quantize_stream(
    source: GgufHeader,
    jobs: Sequence[tuple[QuantizationPlan, Path]],
    stream: Callable[[Sink], None],
) -> None:
    """Write the output of each plan to its path, which must exist, from the rows that `stream` gives to its sink.

    `source` needs a header only: a sparse file will do. The sink may be called from several threads at once; each must
    bring whole rows, encoded as the header says.

    Raises:
        VerificationError: what was quantized is not finite.
        OSError: a write failed.
        As `headers`, and whatever `stream` raises.
    """
    with contextlib.ExitStack() as stack:
        tensors = {tensor.name: tensor for tensor in jobs[0][0].tensors}
        places: dict[str, list[_Place]] = {name: [] for name in tensors}
        for plan, path in jobs:
            matrix = _importance(plan)
            new = _new_file(source, plan, matrix)
            output = _Output(os.open(path, os.O_WRONLY | os.O_CLOEXEC), threading.Lock())
            stack.callback(os.close, output.descriptor)
            os.ftruncate(output.descriptor, new.size)  # the padding between tensors is zero bytes
            output.write(np.frombuffer(new.header, np.uint8), 0)
            for planned, placed in zip(plan.tensors, new.tensors, strict=True):
                places[placed.name].append(_place(output, planned, placed, matrix))

        def sink(name: str, place: int, rows: Array) -> None:
            _quantize_rows(tensors[name], places[name], place, rows)

        stream(sink)


def rows_of(files: Sequence[Path], *, threads: int, progress: Progress, stage: str) -> Callable[[Sink], None]:
    """Make a stream of the tensors of a GGUF model: one file, or all parts of a split one."""

    def stream(sink: Sink) -> None:
        parts = [read_header(path) for path in files]
        total = sum(tensor.size for header in parts for tensor in header.tensors)
        with contextlib.ExitStack() as stack:
            descriptors = [stack.enter_context(opened(header.path)).descriptor for header in parts]

            def give(piece: tuple[int, TensorInfo, int, int]) -> int:
                part, tensor, start, size = piece
                rows = np.empty(size, np.uint8)
                _read(descriptors[part], parts[part], rows, tensor.offset + start)
                if not _library().is_valid(rows, int(tensor.type)):  # a block would swallow it
                    raise GgufFileError(f"{parts[part].path}: tensor {tensor.name!r} has elements that are not finite")
                sink(tensor.name, start, rows.view(_STORED.get(tensor.type, "<u1")))
                return size

            work_through(_pieces(parts), give, threads=threads, report=lambda done: progress(stage, done, total))
            progress(stage, total, total)

    return stream


def _pieces(parts: Sequence[GgufHeader]) -> Iterator[tuple[int, TensorInfo, int, int]]:
    """Cut every tensor into whole rows of about half a megabyte: (part, tensor, first byte, bytes)."""
    for part, header in enumerate(parts):
        for tensor in header.tensors:
            row = _bytes(tensor.type, tensor.shape[0] if tensor.shape else 1)
            step = max(row, _PIECE_BYTES // row * row)
            for start in range(0, tensor.size, step):
                yield part, tensor, start, min(step, tensor.size - start)


def _read(descriptor: int, header: GgufHeader, target: Array, offset: int) -> None:
    view, done = memoryview(target.data), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise GgufFileError(f"{header.path} became shorter while it was read")
        done += count


def _importance(plan: QuantizationPlan) -> ImportanceMatrix | None:
    return load_importance(plan.options.imatrix) if plan.options.imatrix else None


def _new_file(source: GgufHeader, plan: QuantizationPlan, matrix: ImportanceMatrix | None) -> NewFile:
    added: list[tuple[str, ValueType, Scalar]] = [
        ("general.quantization_version", ValueType.UINT32, _QUANTIZATION_VERSION),
        ("general.file_type", ValueType.UINT32, plan.type.number),
        *(_override(key, text) for key, text in plan.overrides),
    ]
    if matrix is not None and matrix.values:
        added.append(("quantize.imatrix.file", ValueType.STRING, _cut(str(matrix.path))))
        if matrix.datasets:
            added.append(("quantize.imatrix.dataset", ValueType.STRING, _cut(matrix.datasets[0])))
        added.append(("quantize.imatrix.entries_count", ValueType.UINT32, len(matrix.values)))
        if matrix.chunks > 0:
            added.append(("quantize.imatrix.chunks_count", ValueType.UINT32, matrix.chunks))
    tensors = [(tensor.name, stripped(tensor.shape), tensor.to) for tensor in plan.tensors]
    return rewrite(source, without=_SPLIT_KEYS, then=added, tensors=tensors)


def _override(key: str, text: str) -> tuple[str, ValueType, Scalar]:
    """Read llama.cpp's notation of a value (`int:32`), as llama-quantize writes it: integers are unsigned."""
    name, _, value = text.partition(":")
    kind = _OVERRIDE_KINDS[name]
    match kind:
        case ValueType.UINT32:
            return key, kind, abs(int(value))
        case ValueType.FLOAT32:
            return key, kind, float(value)
        case ValueType.BOOL:
            return key, kind, value == "true"
        case _:
            return key, kind, value


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST_STRING].decode(errors="ignore")


def _place(output: _Output, planned: PlannedTensor, placed: PlacedTensor, matrix: ImportanceMatrix | None) -> _Place:
    values = matrix.values.get(planned.name) if matrix is not None else None
    columns, _, slices = _extents(planned.shape)
    if values is not None and values.size != columns * slices:
        values = None  # the plan refuses all of these but token embeddings, for which llama-quantize takes none either
    return _Place(output, placed.type, placed.offset, values)


def _extents(shape: tuple[int, ...]) -> tuple[int, int, int]:
    columns, rows, slices = (*shape, 1, 1, 1)[:3]
    return columns, rows, slices


def _quantize_rows(tensor: PlannedTensor, places: Sequence[_Place], place: int, rows: Array) -> None:
    """Bring some rows of one tensor into every output; `place` is where they begin in the source's tensor."""
    columns, rows_per_expert, _ = _extents(tensor.shape)
    flat = rows.reshape(-1)
    first_row = place // _bytes(tensor.was, columns)
    for kept in places:
        if kept.type is tensor.was:
            kept.output.write(flat, kept.offset + place)
    changed = [kept for kept in places if kept.type is not tensor.was]
    if not changed:
        return
    row_count = flat.size // columns
    for start, count in _within_experts(first_row, row_count, rows_per_expert, columns):
        done = start - first_row
        values = _to_float32(flat[done * columns : (done + count) * columns], tensor.was)
        expert = start // rows_per_expert
        for kept in changed:
            importance = kept.importance
            if importance is not None:
                importance = importance[expert * columns : (expert + 1) * columns]
            encoded = _quantize(values, kept.type, columns, importance, tensor.name)
            kept.output.write(encoded, kept.offset + start * _bytes(kept.type, columns))


def _within_experts(first: int, count: int, rows_per_expert: int, columns: int) -> Iterator[tuple[int, int]]:
    """Cut rows so that none crosses from one expert to the next, whose importance differs, nor is too much at once."""
    most = max(1, _ELEMENTS_AT_ONCE // columns)
    row, end = first, first + count
    while row < end:
        step = min(most, end - row, rows_per_expert - row % rows_per_expert)
        yield row, step
        row += step


def _to_float32(rows: Array, kind: TensorType) -> Array:
    if kind is TensorType.F32:
        return rows
    values = np.empty(rows.size, np.float32)
    _library().to_float32(rows, kind.name, values)
    return values


def _quantize(values: Array, kind: TensorType, columns: int, importance: Values | None, name: str) -> Array:
    encoded = np.empty(_bytes(kind, values.size), np.uint8)
    _library().quantize(values, int(kind), columns, encoded, importance)
    if not _library().is_valid(encoded, int(kind)):
        raise GgufFileError(f"tensor {name!r} cannot be quantized to {kind.name}: the result is not finite")
    return encoded


def _library() -> ggml.Ggml:
    library = ggml.load()
    if library is None:
        raise MissingDependencyError("libggml is not built", hint="ggufkit setup")
    return library


def _bytes(kind: TensorType, elements: int) -> int:
    return elements // kind.block_size * kind.block_bytes
