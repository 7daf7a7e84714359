"""Carry out a plan: pieces of a few megabytes are read, changed, encoded and written, by as many threads as cores.

A piece never depends on another, and every place in the file is known, so the order in which they are done is free and
memory stays bounded by pieces, whatever the size of the model.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ggufkit.architectures import Shape, move_rows
from ggufkit.checkpoints import Config, DequantizedTensor, StoredTensor
from ggufkit.conversion.elements import STORED, Array, encode, first_misfit, to_float32
from ggufkit.conversion.kept import Kept
from ggufkit.conversion.plan import ConversionPlan, Step
from ggufkit.crew import work_through
from ggufkit.errors import CheckpointError
from ggufkit.files import begin_writing_back
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.progress import Progress

# Small enough for a piece to stay in the cache, and its buffers in malloc's hands, between reading and writing.
_PIECE_BYTES = 2**19


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of one source, which become each target's bytes from its place on; or a whole step, for no `rows`."""

    step: Step
    source: StoredTensor
    rows: range | None
    places: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes to read."""
        if self.rows is None:
            return sum(source.size for source in self.step.sources)
        return len(self.rows) * (self.source.size // max(1, self.source.shape[0]))


Sink: TypeAlias = Callable[[TensorLayout, int, Array], None]
"""Takes a tensor of the plan, the place of some of its elements as bytes in the file, and the elements, encoded."""


def execute(plan: ConversionPlan, path: Path, *, threads: int, progress: Progress) -> None:
    """Write the whole file of a plan to `path`, which must exist.

    Raises:
        CheckpointError: a source cannot be read, or an element is NaN, infinite, or out of the output type's range.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    lock = threading.Lock()  # the kernel lets one write to a file at a time, and has the other spin

    def write(_: TensorLayout, place: int, encoded: Array) -> None:
        with lock:
            _write(descriptor, encoded.reshape(-1).view(np.uint8).data, place)

    try:
        os.ftruncate(descriptor, plan.layout.size)  # the padding between tensors is zero bytes
        _write(descriptor, memoryview(plan.layout.header), 0)
        stream(plan, write, threads=threads, progress=progress)
    finally:
        os.close(descriptor)


def stream(
    plan: ConversionPlan,
    sink: Sink,
    *,
    threads: int,
    progress: Progress,
    stage: str = "Converting",
    wants: Callable[[TensorLayout, int], bool] = lambda target, place: True,  # noqa: ARG005 - the signature
) -> None:
    """Give every element of a plan's tensors to `sink`, once: whole rows, from several threads, in no fixed order.

    Pieces of whose targets none is wanted are passed over. The same plan is always cut into the same pieces.

    Raises:
        CheckpointError: as `execute`; and whatever the sink raises.
    """
    places = {tensor.name: tensor for tensor in plan.layout.tensors}
    for name, array in plan.extra.items():
        if wants(places[name], places[name].offset):
            sink(places[name], places[name].offset, np.ascontiguousarray(array))

    def convert(piece: _Piece) -> int:
        if any(wants(target, place) for target, place in zip(piece.step.targets, piece.places, strict=True)):
            for target, place, encoded in _done(piece, plan.config):
                sink(target, place, encoded)
        return piece.size

    total = plan.source_bytes
    work_through(_pieces(plan), convert, threads=threads, report=lambda done: progress(stage, done, total))
    plan.checkpoint.check_unchanged()
    progress(stage, total, total)


def _pieces(plan: ConversionPlan) -> Iterator[_Piece]:
    for step in plan.steps:
        first = step.sources[0]
        together = step.op.rows_together(first.shape, plan.config) if first.shape else None
        if together is None:
            yield _Piece(step, first, None, tuple(target.offset for target in step.targets))
            continue
        all_rows, before = sum(source.shape[0] for source in step.sources), 0
        for source in step.sources:
            source_rows = source.shape[0]
            together = math.lcm(together, source.rows_at_once if isinstance(source, DequantizedTensor) else 1)
            count = max(together, _PIECE_BYTES // max(1, source.size // source_rows) // together * together)
            for start in range(0, source_rows, count):
                rows = range(start, min(start + count, source_rows))
                # Every target fills up evenly: half of the sources' rows are half of its bytes.
                done = before + start
                yield _Piece(step, source, rows, tuple(t.offset + t.size * done // all_rows for t in step.targets))
            before += source_rows


def _done(piece: _Piece, config: Config) -> Iterator[tuple[TensorLayout, int, Array]]:
    """Read and change a piece; yield what is to be written, and where."""
    step = piece.step
    sources = (piece.source,) if piece.rows is not None else step.sources
    if step.kept:
        yield from _kept(piece, step.kept, config)
        return
    arrays = [_read(source, piece.rows) for source in sources]
    dtype = piece.source.dtype
    if not step.op.moves_only or any(source.dtype != dtype for source in sources):
        arrays = [
            to_float32(array.reshape(-1), source.dtype).reshape(array.shape)
            for array, source in zip(arrays, sources, strict=True)
        ]
        dtype = "F32"
    results = arrays if piece.rows is not None and len(step.sources) > 1 else step.op.apply(arrays, config)
    for result, target, place in zip(results, step.targets, piece.places, strict=True):
        flat = np.ascontiguousarray(result).reshape(-1)
        encoded = encode(flat, dtype, target.type, target.shape[-1])
        if first_misfit(flat, dtype, encoded, target.type) is not None:
            raise _misfit(piece, target, arrays[0].reshape(-1), dtype)
        yield target, place, encoded


def _kept(piece: _Piece, kept: Kept, config: Config) -> Iterator[tuple[TensorLayout, int, Array]]:
    """Yield the blocks of a piece's sources, whose rows change places at most."""
    step, rows = piece.step, piece.rows
    if rows is not None:
        blocks = [kept.blocks[step.sources.index(piece.source)].encode(rows)]
    else:
        whole = [range(source.shape[0]) for source in step.sources]
        blocks = [found.encode(every) for found, every in zip(kept.blocks, whole, strict=True)]
    if rows is None or len(step.sources) == 1:
        shapes = [(len(array), *source.shape[1:]) for array, source in zip(blocks, step.sources, strict=True)]
        blocks = move_rows(step.op, blocks, shapes, config) or []
    for target, place, moved in zip(step.targets, piece.places, blocks, strict=True):
        yield target, place, np.ascontiguousarray(moved).reshape(-1)


def _read(source: StoredTensor, rows: range | None) -> Array:
    """Read rows of a tensor (all of it when None), shaped, in the type of storage."""
    shape: Shape = source.shape if rows is None else (len(rows), *source.shape[1:])
    array: Array = np.empty(math.prod(shape), STORED[source.dtype])
    start = 0 if rows is None else rows.start * (source.size // source.shape[0])
    source.read_into(array.view(np.uint8).data, start)
    return array.reshape(shape)


def _misfit(piece: _Piece, target: TensorLayout, source: Array, dtype: str) -> CheckpointError:
    """Say which element of the source it was: the op may have moved it."""
    encoded = encode(source, dtype, target.type, target.shape[-1])
    index = first_misfit(source, dtype, encoded, target.type) or 0
    value = float(source[index] if dtype == "F64" else to_float32(source[index : index + 1], dtype)[0])
    row = piece.rows.start if piece.rows is not None else 0
    where = f"tensor {piece.source.name!r}, element {row * math.prod(piece.source.shape[1:]) + index}"
    if math.isfinite(value):
        return CheckpointError(
            f"{where} is {value:g}, out of range for {target.type.name}", hint="--outtype bf16 or f32"
        )
    return CheckpointError(f"{where} is {value}", hint="the checkpoint is damaged, or its training diverged")


def _write(descriptor: int, data: memoryview, place: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], place + done)
    begin_writing_back(descriptor, place, len(data))
