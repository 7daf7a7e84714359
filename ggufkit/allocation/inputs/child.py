"""A process of its own that compares what rounding inputs and rounding weights do to the outputs of matrices.

The request (JSON) names the model, the chunks, and for each matrix the type in which its weights are rounded. Of every
matrix some rows are taken. Into `results` goes for each of them the mean square of what its outputs change by, relative
to that of the outputs: `weights` when the weights are rounded, and for each size of block when the inputs are.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.inputs.rounding import BLOCKS, rounded
from ggufkit.allocation.row_errors import sampled
from ggufkit.allocation.weights import importance_of, rows_of, through
from ggufkit.evaluation.child_process import refusing
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp.input_reader import InputReader, Place, of_expert
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

READ = "read:"
_ROWS = 64  # of a matrix
_EXPERTS = 4  # of a stack

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsRequest:
    """What the child is to do; paths are absolute."""

    sources: tuple[str, ...]
    tokens: str
    chunk_tokens: int
    chunks: int
    types: Mapping[str, str]
    results: str
    importance: str = ""
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    threads: int = 0

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "InputsRequest":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**content)


@dataclass(slots=True)
class _Matrix:
    """Some rows of a matrix, what rounding changes of them, and sums of squares of outputs."""

    rows: Floats
    changes: Floats
    whole: float = 0.0
    weights: float = 0.0
    inputs: dict[int, float] | None = None


class _Comparer(InputReader):
    """Adds up what becomes of outputs."""

    def __init__(self, path: Path, matrices: Mapping[str, _Matrix], *, length: int, threads: int) -> None:
        self.matrices = matrices
        super().__init__(path, matrices, length=length, threads=threads)

    def take(self, name: str, place: Place, inputs: Callable[[], Floats]) -> None:  # noqa: ARG002 - the base's signature
        matrix, values = self.matrices[name], inputs()
        matrix.whole += _squares(values @ matrix.rows.T)
        matrix.weights += _squares(values @ matrix.changes.T)
        matrix.inputs = matrix.inputs or {}
        for block in BLOCKS:
            if values.shape[1] % block == 0:
                change = _squares((rounded(values, block) - values) @ matrix.rows.T)
                matrix.inputs[block] = matrix.inputs.get(block, 0.0) + change


def _squares(outputs: NDArray[Any]) -> float:
    return float(np.square(outputs, dtype=np.float64).sum())


def compare(request: InputsRequest) -> None:
    """Compare all matrices of a request."""
    chunks = np.fromfile(request.tokens, "<i4").reshape(request.chunks, request.chunk_tokens)
    threads = request.threads or cpu.usable_cores()
    with _Comparer(
        Path(request.sources[0]), _matrices(request), length=request.chunk_tokens, threads=threads
    ) as comparer:
        for number, chunk in enumerate(chunks.tolist(), 1):
            comparer.read(chunk)
            sys.stdout.write(f"{READ} {number}\n")
            sys.stdout.flush()
    found = {
        name: {"weights": it.weights / it.whole, "inputs": {size: sum_ / it.whole for size, sum_ in it.inputs.items()}}
        for name, it in comparer.matrices.items()
        if it.whole > 0 and it.inputs
    }
    Path(request.results).write_text(json.dumps(found))


def _matrices(request: InputsRequest) -> dict[str, _Matrix]:
    encoder = library()
    importance: Mapping[str, Floats] = {}
    if request.importance:
        matrix = load_importance(Path(request.importance))
        importance = matrix.only(request.include_weights, request.exclude_weights).values
    found = {}
    with ExitStack() as stack:
        for source in request.sources:
            header = read_header(Path(source))
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            for tensor in header.tensors:
                kind = request.types.get(tensor.name)
                if kind is None:
                    continue
                columns, _, experts = rows_of(tensor)
                for expert in sorted({number * experts // _EXPERTS for number in range(_EXPERTS)}):
                    values = sampled(encoder, descriptor, header, tensor, expert, _ROWS * experts)
                    own = importance_of(importance, tensor, expert)
                    changed = through(encoder, values, TensorType[kind], columns, own)
                    name = tensor.name if experts == 1 else of_expert(tensor.name, expert)
                    shape = (-1, columns)
                    found[name] = _Matrix(values.reshape(shape), (changed - values).reshape(shape))
    return found


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        compare(InputsRequest.read(path))
