"""The objective of an unmerged fork of llama.cpp, written anew from its published description, to compare with.

A type's cost for a tensor is its squared error, weighted by the importance matrix and normalized row by row, summed
over rows (estimated from a sample), times a factor set by hand for the kind of tensor. No divergence is measured.
(llama.cpp pull request 15550: ffn_down x 6, the output layer x 3, embeddings that are one x 2.5, attn_v x 1.25.)
"""

from __future__ import annotations

import os

import numpy as np

from ggufkit.allocation.model import Model
from ggufkit.allocation.sensitivity import Costs
from ggufkit.allocation.weights import importance_of, read_bytes, row_bytes, rows_of, through, to_float32
from ggufkit.llamacpp import ggml
from ggufkit.quantization.importance import load_importance

_ROWS = 512
_FACTORS = (("ffn_down", 6.0), ("attn_v", 1.25))
_OUTPUT, _TIED = 3.0, 2.5


def fork_costs(model: Model) -> Costs:
    """Compute the cost of every type for every tensor."""
    library = ggml.load()
    assert library
    matrix = model.options.imatrix
    importance = load_importance(matrix).values if matrix else {}
    costs = {}
    for header in model.headers:
        descriptor = os.open(header.path, os.O_RDONLY)
        for choice in model.choices:
            tensor = choice.tensor
            if tensor not in header.tensors:
                continue
            columns, rows, experts = rows_of(tensor)
            weighing = importance_of(importance, tensor, 0)
            scale = np.ones(columns, np.float32) if weighing is None else weighing
            size, step = row_bytes(tensor.type, columns), max(1, rows // _ROWS)
            content = [read_bytes(descriptor, header, tensor, row * size, size) for row in range(0, rows, step)]
            values = to_float32(library, np.concatenate(content), tensor.type).reshape(-1, columns)
            norms = np.maximum((values.astype(np.float64) ** 2 * scale).sum(axis=1), 1e-30)
            own = {}
            for kind in choice.types[:-1]:
                changed = through(library, values.reshape(-1), kind, columns, weighing).reshape(-1, columns)
                errors = ((changed - values).astype(np.float64) ** 2 * scale).sum(axis=1) / norms
                own[kind] = float(errors.mean()) * rows * experts * _factor(model, choice.name)
            costs[choice.name] = {**own, choice.types[-1]: 0.0}
        os.close(descriptor)
    return costs


def _factor(model: Model, name: str) -> float:
    if name == "output.weight":
        return _OUTPUT
    if name == "token_embd.weight":
        return _TIED if model.is_tied else 1.0
    return next((factor for part, factor in _FACTORS if part in name), 1.0)
