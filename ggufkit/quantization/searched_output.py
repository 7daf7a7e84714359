"""After llama-quantize: scales are searched for that bring what it has stored nearer to the source's weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.llamacpp import cpu, ggml
from ggufkit.progress import Progress
from ggufkit.quantization.importance import Values, load_importance
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.planned import PlannedTensor, elements
from ggufkit.quantization.scale_search import can_search, in_own_threads, searched
from ggufkit.quantization.stored_rows import StoredRows, is_plain, rewrite


def is_searched(tensor: PlannedTensor) -> bool:
    """Whether scales of a tensor can be searched for: its weights are there, and its type is known."""
    return can_search(tensor.to) and is_plain(tensor)


def search_output(plan: QuantizationPlan, written: Sequence[Path], progress: Progress) -> set[str]:
    """Search for all tensors of these files whose types are known; return the names of those that were changed.

    Raises:
        OSError: a file cannot be read or written.
        InputError: the importance matrix cannot be used.
    """
    library = ggml.load()
    wanted = {tensor.name: tensor for tensor in plan.tensors if is_searched(tensor)}
    if library is None or not wanted:
        return set()
    options = plan.options
    importance: Mapping[str, Values] = {}
    if options.imatrix:
        importance = load_importance(options.imatrix).only(options.include_weights, options.exclude_weights).values
    total = sum(elements(tensor.shape) for tensor in wanted.values())
    size = sum(tensor.bytes_before for tensor in wanted.values())

    def better(rows: StoredRows) -> NDArray[np.uint8]:
        tensor, columns = rows.tensor, rows.values.shape[1]
        weights = importance.get(tensor.source_name or tensor.name)
        if weights is not None:
            experts = elements(tensor.shape[2:])
            start = rows.expert * columns
            weights = weights[start : start + columns] if weights.size == columns * experts else None
        return searched(rows.values.reshape(-1), rows.encoded, tensor.to, columns, weights)

    with in_own_threads():
        return rewrite(
            library,
            plan,
            written,
            wanted,
            better,
            threads=options.threads or cpu.usable_cores(),
            report=lambda done: progress("Searching scales", done * size // total, size),
        )
