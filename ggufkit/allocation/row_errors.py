"""What a type does to a tensor: the exact error of libggml's own encoder, over rows taken from the whole tensor.

An error is the sum over weights of importance * (weight - stored weight)^2, divided by that of importance * weight^2:
0 is no error, 1 as if the tensor were zero. Encoders work on single rows, so some rows give the error of these exactly.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from ggufkit.allocation.choices import Choices
from ggufkit.allocation.weights import (
    Floats,
    importance_of,
    read_bytes,
    row_bytes,
    rows_of,
    through,
    to_float32,
)
from ggufkit.crew import work_through
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent
from ggufkit.quantization.scale_search import in_own_threads

Errors = Mapping[str, Mapping[TensorType, float]]
"""The relative error of each tensor in each type that it may have."""

DEFAULT_ROWS = 256  # of a tensor
_LEAST_ROWS_OF_EXPERT = 2
HOPELESS = (
    1e6  # the error of a type that cannot hold the weights, such as F16 those above 65504: a number to count with
)


def row_errors(
    headers: Sequence[GgufHeader],
    choices: Sequence[Choices],
    importance: Mapping[str, Floats],
    library: Ggml,
    *,
    rows: int = DEFAULT_ROWS,
    search_scales: bool = False,
    threads: int,
    progress: Progress = silent,
) -> Errors:
    """Compute the error of each tensor in each of its types, over `rows` rows of it (all experts together).

    With `search_scales` it is that of the scales which `quantize` finds when it searches.

    Raises:
        GgufFileError: a file has become shorter.
    """
    found: dict[str, dict[TensorType, float]] = {choice.name: {} for choice in choices}
    by_name = {tensor.name: (header, tensor) for header in headers for tensor in header.tensors}
    with ExitStack() as stack:
        if search_scales:
            stack.enter_context(in_own_threads())
        descriptors = {}
        for header in headers:
            descriptors[header.path] = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptors[header.path])

        def work(piece: tuple[Choices, TensorType]) -> int:
            choice, kind = piece
            header, tensor = by_name[choice.name]
            error = norm = 0.0
            columns, _, experts = rows_of(tensor)
            for expert in range(experts):
                values = sampled(library, descriptors[header.path], header, tensor, expert, rows)
                weights = importance_of(importance, tensor, expert)
                changed = through(library, values, kind, columns, weights, search_scales=search_scales)
                scale = np.ones(columns, np.float32) if weights is None else weights
                with np.errstate(over="ignore", invalid="ignore"):  # where the type has no room for them
                    squares = (changed - values).reshape(-1, columns).astype(np.float64) ** 2
                    error += float((squares.sum(axis=0) * scale).sum())
                norm += float(((values.reshape(-1, columns).astype(np.float64) ** 2).sum(axis=0) * scale).sum())
            relative = error / norm if norm else 0.0
            found[choice.name][kind] = min(relative, HOPELESS) if math.isfinite(relative) else HOPELESS
            return 1

        pieces = [(choice, kind) for choice in choices for kind in choice.types[:-1]]
        total = len(pieces)
        stage = "Searching scales" if search_scales else "Computing errors of types"
        work_through(iter(pieces), work, threads=threads, report=lambda done: progress(stage, done, total, "steps"))
    for choice in choices:
        found[choice.name][choice.types[-1]] = 0.0
    return {name: dict(sorted(errors.items())) for name, errors in found.items()}


def sampled_rows(rows: int, experts: int, wanted: int) -> Iterator[int]:
    """Choose rows of one expert, evenly over all, so that there are about `wanted` of all experts together."""
    count = min(rows, max(_LEAST_ROWS_OF_EXPERT, wanted // experts))
    return (number * rows // count for number in range(count))


def sampled(library: Ggml, descriptor: int, header: GgufHeader, tensor: TensorInfo, expert: int, wanted: int) -> Floats:
    """Read some rows of one expert as float32, one after the other, so that there are `wanted` of all experts together.

    Raises:
        GgufFileError: the file has become shorter.
    """
    columns, rows, experts = rows_of(tensor)
    size = row_bytes(tensor.type, columns)
    chosen = list(sampled_rows(rows, experts, wanted))
    content = np.empty((len(chosen), size), np.uint8)
    for place, row in enumerate(chosen):
        content[place] = read_bytes(descriptor, header, tensor, (expert * rows + row) * size, size)
    return to_float32(library, content.reshape(-1), tensor.type)
