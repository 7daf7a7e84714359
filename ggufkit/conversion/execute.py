"""Carry out a plan: pieces of a few megabytes are read, changed, encoded and written, by as many threads as cores.

A piece never depends on another, and every place in the file is known, so the order in which they are done is free and
memory stays bounded by pieces, whatever the size of the model.
"""

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufkit.architectures import Shape
from ggufkit.checkpoints import Config, StoredTensor
from ggufkit.conversion.elements import STORED, Array, encode, first_misfit, to_float32
from ggufkit.conversion.plan import ConversionPlan, Step
from ggufkit.errors import CheckpointError
from ggufkit.gguf_file.writer import TensorLayout, block_size
from ggufkit.progress import Progress

# Small enough for a piece to stay in the cache, and its buffers in malloc's hands, between reading and writing.
_PIECE_BYTES = 2**19
_SECONDS_BETWEEN_REPORTS = 0.1
_STAGE = "Converting"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of one source, which become the bytes from `place` on; or a whole step, when `rows` is None."""

    step: Step
    source: StoredTensor
    rows: range | None
    place: int

    @property
    def size(self) -> int:
        """The bytes to read."""
        if self.rows is None:
            return sum(source.size for source in self.step.sources)
        return len(self.rows) * (self.source.size // max(1, self.source.shape[0]))


def execute(plan: ConversionPlan, path: Path, *, threads: int, progress: Progress) -> None:
    """Write the whole file of a plan to `path`, which must exist.

    Raises:
        CheckpointError: a source cannot be read, or an element is NaN, infinite, or out of the output type's range.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, plan.layout.size)  # the padding between tensors is zero bytes
        _write(descriptor, memoryview(plan.layout.header), 0)
        places = {tensor.name: tensor for tensor in plan.layout.tensors}
        for name, array in plan.extra.items():
            _write_array(descriptor, array, places[name].offset)
        _Crew(plan, descriptor).run(threads, progress)
    finally:
        os.close(descriptor)


class _Crew:
    """Threads that take piece after piece from one list until it is empty, or one of them fails."""

    def __init__(self, plan: ConversionPlan, descriptor: int) -> None:
        self._plan = plan
        self._descriptor = descriptor
        self._pieces = _pieces(plan)
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()  # the kernel lets one write to a file at a time, and has the other spin
        self._done = 0
        self._failure: BaseException | None = None
        self._stop = False

    def run(self, threads: int, progress: Progress) -> None:
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        total = self._plan.source_bytes
        progress(_STAGE, 0, total)
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(_SECONDS_BETWEEN_REPORTS)
                    progress(_STAGE, self._done, total)
        except BaseException:
            self._stop = True
            for worker in workers:
                while (
                    worker.is_alive()
                ):  # none may write to a descriptor that is closed, however often one presses Ctrl-C
                    with contextlib.suppress(KeyboardInterrupt, SystemExit):
                        worker.join()
            raise
        if self._failure:
            raise self._failure
        progress(_STAGE, total, total)

    def _work(self) -> None:
        try:
            while not self._stop:
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                for array, place in _done(piece, self._plan.config):
                    with self._write_lock:
                        _write_array(self._descriptor, array, place)
                with self._lock:
                    self._done += piece.size
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._failure = self._failure or error
            self._stop = True


def _pieces(plan: ConversionPlan) -> Iterator[_Piece]:
    for step in plan.steps:
        first = step.sources[0]
        together = step.op.rows_together(first.shape, plan.config) if first.shape else None
        if together is None:
            yield _Piece(step, first, None, 0)
            continue
        (target,) = step.targets
        place = target.offset
        block, block_bytes = block_size(target.type)
        for source in step.sources:
            source_rows = source.shape[0]
            row_bytes = math.prod(source.shape[1:]) // block * block_bytes
            count = max(together, _PIECE_BYTES // max(1, source.size // source_rows) // together * together)
            for start in range(0, source_rows, count):
                rows = range(start, min(start + count, source_rows))
                yield _Piece(step, source, rows, place)
                place += len(rows) * row_bytes


def _done(piece: _Piece, config: Config) -> Iterator[tuple[Array, int]]:
    """Read and change a piece; yield what is to be written, and where."""
    step = piece.step
    if piece.rows is not None:
        arrays = [_read(piece.source, piece.rows)]
    else:
        arrays = [_read(source, None) for source in step.sources]
    dtype = piece.source.dtype
    if not step.op.moves_only:
        arrays = [to_float32(array.reshape(-1), dtype).reshape(array.shape) for array in arrays]
        dtype = "F32"
    results = arrays if piece.rows is not None and len(step.sources) > 1 else step.op.apply(arrays, config)
    for result, target in zip(results, step.targets, strict=True):
        flat = np.ascontiguousarray(result).reshape(-1)
        encoded = encode(flat, dtype, target.type, target.shape[-1])
        if first_misfit(flat, dtype, encoded, target.type) is not None:
            raise _misfit(piece, target, arrays[0].reshape(-1), dtype)
        yield encoded, piece.place if piece.rows is not None else target.offset


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


def _write_array(descriptor: int, array: Array, place: int) -> None:
    _write(descriptor, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, place)


def _write(descriptor: int, data: memoryview, place: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], place + done)
