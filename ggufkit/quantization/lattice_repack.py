"""After llama-quantize: rows that were on a 4-bit lattice already are stored as they were, where they became Q4_0."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.plan import QuantizationPlan

_ELEMENTS_AT_ONCE = 1 << 20
_STORED = {TensorType.F32: "<f4", TensorType.F16: "<u2", TensorType.BF16: "<u2"}


def repack(plan: QuantizationPlan, written: Sequence[Path]) -> set[str]:
    """Look at the source of every Q4_0 tensor of these files; return the names of those that were changed.

    Raises:
        OSError: a file cannot be read or written.
    """
    library = ggml.load()
    planned = {t.name: t.source_name or t.name for t in plan.tensors if t.to is TensorType.Q4_0 and t.was in _STORED}
    if library is None or not planned:
        return set()
    changed = set()
    with ExitStack() as stack:
        sources: dict[str, tuple[TensorInfo, int]] = {}
        for path in plan.sources:
            descriptor = _opened(path, os.O_RDONLY, stack)
            sources |= {tensor.name: (tensor, descriptor) for tensor in read_header(path).tensors}
        for path in written:
            header: GgufHeader = read_header(path)
            descriptor = _opened(path, os.O_WRONLY, stack)
            for tensor in header.tensors:
                if tensor.name in planned and _repacked(library, *sources[planned[tensor.name]], tensor, descriptor):
                    changed.add(tensor.name)
    return changed


def _opened(path: Path, flags: int, stack: ExitStack) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _repacked(library: Ggml, source: TensorInfo, here: int, target: TensorInfo, there: int) -> bool:
    columns = source.shape[0]
    row = columns // source.type.block_size * source.type.block_bytes
    own = columns // target.type.block_size * target.type.block_bytes
    step, rows, changed = max(1, _ELEMENTS_AT_ONCE // columns), source.elements // columns, False
    for first in range(0, rows, step):
        count = min(step, rows - first)
        stored = np.frombuffer(os.pread(here, count * row, source.offset + first * row), _STORED[source.type])
        if stored.size != count * columns:
            return changed  # the source became shorter, which others notice
        values = stored
        if source.type is not TensorType.F32:
            values = np.empty(stored.size, np.float32)
            library.to_float32(stored, source.type.name, values)
        found, packed = pack_rows(values.reshape(count, columns))
        for number, content in zip(np.flatnonzero(found).tolist(), packed, strict=True):
            os.pwrite(there, content.tobytes(), target.offset + (first + number) * own)
            changed = True
    return changed
