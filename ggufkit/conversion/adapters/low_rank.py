"""Take low-rank factors through an architecture's operations: what becomes of B @ A when its weight is converted.

Operations move or scale whole rows, with few exceptions. If f(B @ A) = f(B) @ A, then f is applied to B alone; that
this is so is not believed but tried, on random factors of the same shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures import Op, Shape
from ggufkit.architectures._ops import Concatenate, Each, Stack, Then, Transpose
from ggufkit.checkpoints import Config
from ggufkit.errors import CheckpointError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Factors:
    """A and B, float32: rank x inputs and outputs x rank, each with a leading axis of experts if the weight has one."""

    a: Array
    b: Array

    @property
    def shape(self) -> Shape:
        """The shape of B @ A."""
        return (*self.b.shape[:-1], self.a.shape[-1])


def through(op: Op, sources: Sequence[Factors], config: Config) -> list[Factors]:
    """Give the factors of what `op` makes of the weights that these are the factors of.

    Raises:
        CheckpointError: the result of this operation has no factors that llama.cpp could use.
    """
    match op:
        case Then():
            result = list(sources)
            for step in op.ops:
                result = through(step, result, config)
            return result
        case Each():
            return [through(each, [source], config)[0] for each, source in zip(op.ops, sources, strict=True)]
        case Transpose():
            return [Factors(source.b.swapaxes(-1, -2), source.a.swapaxes(-1, -2)) for source in sources]
        case Stack():
            return [Factors(np.stack([source.a for source in sources]), np.stack([source.b for source in sources]))]
        case Concatenate() if len(sources) > 1:
            return [_side_by_side(sources)]
        case _:
            if len(sources) != 1:
                raise CheckpointError(f"low-rank factors cannot be taken through {type(op).__name__}")
            return _by_rows(op, sources[0], config)


def _side_by_side(sources: Sequence[Factors]) -> Factors:
    """Put factors of weights that lie one under the other into one pair, of all their ranks together."""
    a = np.concatenate([source.a for source in sources])
    b = np.zeros((sum(len(source.b) for source in sources), len(a)), np.float32)
    row = column = 0
    for source in sources:
        rows, rank = source.b.shape
        b[row : row + rows, column : column + rank] = source.b
        row, column = row + rows, column + rank
    return Factors(a, b)


def _by_rows(op: Op, source: Factors, config: Config) -> list[Factors]:
    random = np.random.default_rng(0)
    column = random.standard_normal((*source.b.shape[:-1], 1), np.float32)
    row = random.standard_normal((1, source.a.shape[-1]), np.float32)
    try:
        expected = op.apply([column * row], config)
        moved = op.apply([column], config)
        fits = all(
            part.shape[:-1] == whole.shape[:-1]
            and part.shape[-1] == 1
            and np.allclose(part * row, whole, rtol=1e-5, atol=1e-6)
            for part, whole in zip(moved, expected, strict=True)
        )
        results = op.apply([source.b], config) if fits else []
    except ValueError:  # numpy's, of shapes: the operation looks at the length of rows
        fits = False
    if not fits or any(result.ndim != source.b.ndim for result in results):
        raise CheckpointError(f"low-rank factors cannot be taken through {type(op).__name__}")
    return [Factors(source.a, np.ascontiguousarray(result)) for result in results]
