"""Add scale x B @ A to a weight some rows at a time, so that nothing as large as the weight is ever made twice."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ELEMENTS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Added:
    """What is added to a weight of `shape`, rows first: left @ right x scale, float32, `left` rows x rank.

    A weight of three axes (experts first) has factors of three.
    """

    left: Array
    right: Array
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return (*self.left.shape[:-1], self.right.shape[-1])

    @property
    def rows_at_once(self) -> int:
        """How many rows to take in one piece; of a weight with experts, all rows are numbered through."""
        return max(1, _ELEMENTS_AT_ONCE // max(1, self.shape[-1]))

    @property
    def rows(self) -> int:
        """The number of rows, those of all experts together."""
        return math.prod(self.shape[:-1])

    def to_rows(self, rows: Array, start: int) -> Array:
        """Return float32 `rows` of the weight, from number `start` on, with what is added; summed in float64."""
        rank = self.left.shape[-1]
        left = self.left.reshape(-1, rank)[start : start + len(rows)].astype(np.float64)
        if self.right.ndim == 2:
            change = left @ self.right.astype(np.float64)
        else:
            per_expert = self.left.shape[-2]
            experts = (np.arange(start, start + len(rows))) // per_expert
            change = np.empty(rows.shape, np.float64)
            for expert in np.unique(experts):
                these = experts == expert
                change[these] = left[these] @ self.right[expert].astype(np.float64)
        result: Array = (rows.astype(np.float64) + self.scale * change).astype(np.float32)
        return result
