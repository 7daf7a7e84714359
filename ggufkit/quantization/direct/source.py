"""The tensors of a GGUF model as a stream of pieces: what the direct engine reads when no conversion is under way."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ggufkit.crew import work_through
from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress
from ggufkit.quantization.direct.output import Array, bytes_of
from ggufkit.quantization.direct.sink import STORED, Sink

_PIECE_BYTES = 2**19


def stream_of(
    files: Sequence[Path], library: Ggml, *, threads: int, progress: Progress, stage: str
) -> Callable[[Sink], None]:
    """Make a stream of the tensors of a model: one file, or all parts of a split one.

    The stream raises GgufFileError when a file is too short, has changed, or holds elements that are not finite.
    """

    def stream(sink: Sink) -> None:
        parts = [read_header(path) for path in files]
        total = sum(tensor.size for header in parts for tensor in header.tensors)
        with contextlib.ExitStack() as stack:
            descriptors = [stack.enter_context(_descriptor(header.path)) for header in parts]

            def give(piece: tuple[int, TensorInfo, int, int]) -> int:
                part, tensor, start, size = piece
                if sink.wants(tensor.name, start):
                    rows = np.empty(size, np.uint8)
                    _read(descriptors[part], parts[part], rows, tensor.offset + start)
                    if not library.is_valid(rows, int(tensor.type)):  # a block would swallow it
                        raise GgufFileError(f"{parts[part].path}: tensor {tensor.name!r} holds what is not finite")
                    sink.take(tensor.name, start, rows.view(STORED.get(tensor.type, "<u1")))
                return size

            work_through(_pieces(parts), give, threads=threads, report=lambda done: progress(stage, done, total))
            progress(stage, total, total)

    return stream


def _pieces(parts: Sequence[GgufHeader]) -> Iterator[tuple[int, TensorInfo, int, int]]:
    """Cut every tensor into whole rows of about half a megabyte: (part, tensor, first byte, bytes)."""
    for part, header in enumerate(parts):
        for tensor in header.tensors:
            row = bytes_of(tensor.type, tensor.shape[0] if tensor.shape else 1)
            step = max(row, _PIECE_BYTES // max(1, row) * row)
            for start in range(0, tensor.size, step):
                yield part, tensor, start, min(step, tensor.size - start)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    """Hold a file open: not as `opened` does, which takes every error of the system meanwhile for one of this file."""
    with opened(path) as file:
        descriptor = os.dup(file.descriptor)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, header: GgufHeader, target: Array, offset: int) -> None:
    view, done = memoryview(target.data), 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as error:
            raise GgufFileError(f"cannot read {header.path}: {error.strerror}") from error
        if not count:
            raise GgufFileError(f"{header.path} became shorter while it was read")
        done += count
