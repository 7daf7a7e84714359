"""Whether every block of a written file is finite, which libggml can say."""

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ggufkit.crew import work_through
from ggufkit.errors import VerificationError
from ggufkit.gguf_file.reader import TensorInfo
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.llamacpp import ggml

_PIECE = 1 << 20


def check_blocks(path: Path, tensors: Iterable[TensorInfo], *, threads: int, called: Path) -> None:
    """Let libggml look at every block of these tensors; without libggml, llama-quantize's own look must do.

    Raises:
        VerificationError: a block holds what is not finite, or the file ends before it; it is `called` by that name.
    """
    library = ggml.load()
    if library is None:
        return
    buffers = threading.local()
    with opened(path) as file:
        descriptor = file.descriptor

        def look(piece: tuple[TensorInfo, int, int]) -> int:
            tensor, start, size = piece
            if not hasattr(buffers, "room") or buffers.room.size < size:
                buffers.room = np.empty(max(size, _PIECE), np.uint8)
            content = buffers.room[:size]
            read = os.preadv(descriptor, [content.data], start)
            if read != size or not library.is_valid(content, int(tensor.type)):
                raise VerificationError(
                    f"llama-quantize ended well, but tensor {tensor.name!r} of {called} would hold what is not finite"
                )
            return size

        work_through(_pieces(tensors), look, threads=threads, report=lambda _: None)


def _pieces(tensors: Iterable[TensorInfo]) -> Iterator[tuple[TensorInfo, int, int]]:
    for tensor in tensors:
        block = tensor.type.block_bytes
        step = max(block, _PIECE // block * block)
        for start in range(0, tensor.size, step):
            yield tensor, tensor.offset + start, min(step, tensor.size - start)
