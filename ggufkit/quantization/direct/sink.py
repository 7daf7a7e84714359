"""Where a stream of pieces goes: every piece into every output, decoded once and quantized for each."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.direct.output import Array, Output, bytes_of
from ggufkit.quantization.plan import PlannedTensor

STORED = {TensorType.F32: "<f4", TensorType.F16: "<u2", TensorType.BF16: "<u2"}

_ELEMENTS_AT_ONCE = 2**18  # of float32: a megabyte, which stays in the cache


class Sink:
    """Takes pieces of the source's tensors, from several threads; `place` is the byte of a tensor where one begins."""

    def __init__(self, library: Ggml, tensors: Mapping[str, PlannedTensor], outputs: Sequence[Output]) -> None:
        self._library = library
        self._tensors = tensors
        self._outputs = outputs

    def wants(self, name: str, place: int) -> bool:
        """Whether an output lacks the piece that begins there."""
        return not all(output.has(name, place) for output in self._outputs)

    def take(self, name: str, place: int, rows: Array) -> None:
        """Bring whole rows, encoded in the source's type, into every output that lacks them.

        Raises:
            GgufFileError: what was quantized is not finite.
            OSError: a write failed.
        """
        tensor = self._tensors[name]
        flat = rows.reshape(-1)
        lacking = [output for output in self._outputs if not output.has(name, place)]
        changing = [output for output in lacking if output.type_of(name) is not tensor.was]
        for output in lacking:
            if output not in changing:
                output.note(name, place, [output.copy(name, place, flat)])
        if not changing:
            return
        columns, rows_per_expert = (*tensor.shape, 1, 1)[:2]
        first = place // bytes_of(tensor.was, columns)
        written: list[list[tuple[int, Array]]] = [[] for _ in changing]
        for row, count in _within_experts(first, flat.size // columns, rows_per_expert, columns):
            start = (row - first) * columns
            values = self._to_float32(flat[start : start + count * columns], tensor.was)
            for output, done in zip(changing, written, strict=True):
                done.append(output.quantize(self._library, name, row, columns, row // rows_per_expert, values))
        for output, done in zip(changing, written, strict=True):
            output.note(name, place, done)

    def _to_float32(self, rows: Array, kind: TensorType) -> Array:
        if kind is TensorType.F32:
            return rows
        values = np.empty(rows.size, np.float32)
        self._library.to_float32(rows, kind.name, values)
        return values


def _within_experts(first: int, count: int, rows_per_expert: int, columns: int) -> Iterator[tuple[int, int]]:
    """Cut rows so that none crosses from one expert to the next, whose importance differs, nor is too much at once."""
    most = max(1, _ELEMENTS_AT_ONCE // columns)
    row, end = first, first + count
    while row < end:
        step = min(most, end - row, rows_per_expert - row % rows_per_expert)
        yield row, step
        row += step
