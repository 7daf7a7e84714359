"""What errors of a looked-up row do to the model, as sums that stand for the moments of a matrix's inputs.

A row of embeddings is not multiplied with anything, so no inputs say which of its errors go together. What reads it
says so: with small errors put into all rows, the inputs of every matrix change, and a regression of these changes on
the errors gives the Jacobian J of each. An error e then changes the outputs of a matrix W by W J e, and

    e^T (sum over matrices of (W J)^T (W J) / |W X|^2) e

is what it does to all of them, relative to what they are. Measured on a Llama of 5.8 M weights, its embeddings alone
in IQ4_XS: rounding by these sums leaves half of the divergence; by exact gradients it would be 0.36.
Tokens in disorder teach the wrong thing here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ggufkit.allocation.refinement.feedback import Floats, Moments, Squares
from ggufkit.allocation.refinement.readings import Chunks, Inputs, is_held_out
from ggufkit.llamacpp.input_reader import expert_of

_ERROR = 0.1  # of the root mean square of all rows: about what four bits leave
_TOKENS_PER_COLUMN = 64  # what other tokens' errors do is chance, and has to cancel out
_EVENLY = 0.05  # of the mean of the diagonal: what goes past all matrices
_DAMPING = 1e-6  # of the mean of the diagonal: there may be fewer tokens than columns
_LEAST = 1e-30


def errors_of(rows: Floats) -> Floats:
    """Return small errors by chance, float32 of the shape of the embeddings, [n_vocabulary, n]; always the same."""
    size = _ERROR * float(np.sqrt(np.mean(np.square(rows, dtype=np.float64))))
    errors: Floats = np.random.default_rng(0).standard_normal(rows.shape, np.float32) * np.float32(size)
    return errors


def memory_needed(columns: Sequence[int], width: int) -> int:
    """Bytes that the sums take, where matrices of so many columns read what comes of rows of a width."""
    return 2 * sum(4 * each * width for each in columns)


def lookup_moments(
    model: Path,
    changed: Path,
    errors: Floats,
    readers: Sequence[Sequence[str]],
    weights_of: Callable[[str], Floats],
    chunks: Chunks,
    threads: int,
) -> tuple[Moments, Moments]:
    """Return the sums, to learn from and to judge by.

    Args:
        model: the untouched model.
        changed: the same but for its embeddings, which hold `errors` besides.
        errors: float32 [n_vocabulary, n].
        readers: names of matrices that read the same inputs, at each place in the model.
        weights_of: gives a matrix, float32 [n_out, n_in].
        chunks: what is read.
        threads: for computing.

    Raises:
        LlamaCppError: llama.cpp failed.
    """
    first = {names[0]: names for names in readers if expert_of(names[0]) is None}
    found = (_Effects(errors.shape[1]), _Effects(errors.shape[1]))
    most = max(1, -(-_TOKENS_PER_COLUMN * errors.shape[1] // chunks.shape[1]))
    some = chunks[:most]
    with ExitStack() as stack:
        plain, other = (
            stack.enter_context(Inputs(path, list(first), length=chunks.shape[1], threads=threads, is_cut_short=True))
            for path in (model, changed)
        )
        for number, chunk in enumerate(some.tolist()):
            plain.read(chunk)
            other.read(chunk)
            found[is_held_out(number, len(some))].add(errors[chunk], plain.found, other.found)
    learned, held = (each.moments(first, weights_of) for each in found)
    return learned, held


class _Effects:
    """Sums over tokens, of their errors and of what these change."""

    def __init__(self, width: int) -> None:
        self._errors: Squares = np.zeros((width, width))
        self._changes: dict[str, Floats] = {}
        self._inputs: dict[str, Floats] = {}
        self._tokens = 0

    def add(self, errors: Floats, plain: Mapping[str, Floats], other: Mapping[str, Floats]) -> None:
        self._errors += errors.T @ errors
        self._tokens += len(errors)
        for name, inputs in plain.items():
            if name not in other or len(inputs) != len(errors) or len(other[name]) != len(errors):
                continue
            change = np.asarray((other[name] - inputs).T @ errors, np.float32)
            self._changes[name] = self._changes[name] + change if name in self._changes else change
            self._inputs.setdefault(name, inputs)

    def moments(self, readers: Mapping[str, Sequence[str]], weights_of: Callable[[str], Floats]) -> Moments:
        width = len(self._errors)
        scale = max(float(np.trace(self._errors)) / width, _LEAST)
        inverse = np.linalg.inv(self._errors / scale + _DAMPING * np.eye(width)) / scale
        total: Squares = np.zeros((width, width))
        for name, change in self._changes.items():
            jacobian = change @ inverse
            for matrix in readers[name]:
                weights = weights_of(matrix)
                outputs = float(np.square(self._inputs[name] @ weights.T, dtype=np.float64).mean()) * len(weights)
                effect: Squares = (weights @ jacobian).astype(np.float64)
                if outputs > 0:
                    total += effect.T @ effect / outputs
        total[np.diag_indices(width)] += _EVENLY * float(np.trace(total)) / width
        return Moments(total, self._tokens)
