"""What errors of matrices' outputs do to what a model says in the end, from its checkpoint, read backwards.

Of a matrix that turns x into y, G = E[g g^T] over tokens, g being gradients at y whose second moment is the Fisher
information: to second order, an error e of y costs e^T G e / 2 nats. Tokens count by what rounding the matrix can do
wrong there: nothing where x is zeros, however steep the gradient is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggufkit.allocation.backwards import modules_by_tensor, order_of_rows, read_backwards
from ggufkit.allocation.refinement.feedback import left_across_rows
from ggufkit.allocation.refinement.pieces import ROWS_AT_ONCE
from ggufkit.allocation.weights import rows_of
from ggufkit.checkpoints import open_checkpoint
from ggufkit.errors import InputError
from ggufkit.evaluation.reference import loaded_original
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress

# What is read: with one draw in place of four, a Llama of 5.2 M weights gained a tenth less by it (the cost of errors
# of six matrices, as the moments of other text say).
MOST_CHUNKS = 96
_DRAWS = 4
# What must be gained at least, as the moments themselves say: with less, which two thirds of a Llama's weights have
# (they feed the gates), its files were no better, and the work is four times that of rows alone.
_LEAST_GAIN = 0.15
_STAGE = "Reading backwards"


def bytes_of_files(headers: Sequence[GgufHeader]) -> int:
    """Return how many bytes the files of a model's moments take, at most."""
    rows = [rows_of(tensor)[1] for header in headers for tensor in header.tensors if len(tensor.shape) == 2]
    return sum(4 * count**2 for count in rows if count <= ROWS_AT_ONCE)


def output_moments(
    original: Path,
    headers: Sequence[GgufHeader],
    chunks: Sequence[Sequence[int]],
    ggml: Ggml,
    folder: Path,
    progress: Progress,
    *,
    threads: int | None = None,
) -> Mapping[str, Path]:
    """Write G of matrices that are one linear layer of the checkpoint, float32 [n_out, n_out], rows as in the file.

    Embeddings, also those that are the output layer too, matrices with too many rows, and those that would gain little
    are left out.

    Raises:
        InputError: no matrix of the model is in the checkpoint.
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the checkpoint or read by it, or memory does not suffice.
    """
    tensors = {tensor.name: (header, tensor) for header in headers for tensor in header.tensors}
    names = [name for name, (_, tensor) in tensors.items() if rows_of(tensor)[1] <= ROWS_AT_ONCE]
    folder.mkdir(parents=True, exist_ok=True)
    with open_checkpoint(original) as checkpoint, loaded_original(checkpoint) as model:
        import torch

        found = modules_by_tensor(model, headers, names, ggml)
        layers = {
            name: modules[0]
            for name, modules in found.items()
            if len(modules) == 1 and isinstance(modules[0], torch.nn.Linear)
        }
        if not layers:
            raise InputError(f"{original} holds none of this model's matrices")
        orders = {name: order_of_rows(module, *tensors[name], ggml) for name, module in layers.items()}
        sums: dict[int, Any] = {}
        counts: dict[int, float] = {}

        def arrived(module: Any, given: Any, _output: Any, gradient: Any) -> None:
            rows = gradient.reshape(-1, gradient.shape[-1]).float()
            weights = _weights(given.reshape(-1, given.shape[-1]).float())[:, None]
            rows = rows.where(weights > 0, 0.0)  # which may be infinite there
            sums[id(module)] = sums.get(id(module), 0) + (weights * rows).T @ rows
            counts[id(module)] = counts.get(id(module), 0.0) + float(weights.sum())

        progress(_STAGE, 0, len(chunks), "steps")
        for number in read_backwards(
            model, list(layers.values()), chunks, len(chunks[0]) - 1, _DRAWS, arrived, threads=threads
        ):
            progress(_STAGE, number + 1, len(chunks), "steps")
    paths: dict[str, Path] = {}
    for name, module in layers.items():
        order, total = orders[name], sums.get(id(module))
        if order is None or total is None:
            continue
        moments = total.numpy()[np.ix_(order, order)] / max(counts[id(module)], 1e-30)
        if not np.isfinite(moments).all() or not moments.any():
            continue
        if left_across_rows(moments.astype(np.float64)) < 1 - _LEAST_GAIN:
            paths[name] = folder / f"{len(paths)}.npy"
            np.save(paths[name], moments.astype(np.float32))
    return paths


def _weights(given: Any) -> Any:
    """Say what tokens count for, [n_tokens], by what a matrix gets of them, [n_tokens, n_in]: 0 to 1, half as a rule.

    The norm of an untrained embedding, such as BOS may have, divides by next to nothing: gradients of 10^15 were met at
    tokens whose inputs are zeros. Errors do not grow with very large inputs: the feedback across columns sees to those.
    """
    squares = given.square().sum(-1)
    return squares / (squares + squares.median().clamp(min=1e-30))
