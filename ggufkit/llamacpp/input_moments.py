"""What goes into the matrices of a model: the sums of products of their inputs.

The inputs X, float32 [n_tokens, n_in], are added up as X^T X, float64 [n_in, n_in]. Matrices that read the same inputs
share one sum.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.llamacpp.input_reader import InputReader, Place


class InputMoments(InputReader):
    """A model on the CPU that reads chunks and adds up the moments of the inputs of some of its matrices.

    Attributes:
        sums: X^T X of each group of matrices with the same inputs, float64 [n_in, n_in], by the first one's name.
        group_of: the name of the group of each matrix that was met.
        tokens: how many rows of inputs each group has seen.
    """

    def __init__(self, path: Path, wanted: Collection[str], *, length: int, threads: int) -> None:
        """As `InputReader`."""
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.group_of: dict[str, str] = {}
        self.tokens: dict[str, int] = {}
        # The group whose inputs are at a place, in this chunk.
        self._met: dict[Place, str] = {}
        self._counted: set[str] = set()
        super().__init__(path, wanted, length=length, threads=threads)

    def read(self, chunk: Sequence[int], scales: NDArray[np.float32] | None = None) -> None:
        """Add the inputs of one chunk, each token's times one of the `scales`. Raises LlamaCppError."""
        self._met.clear()
        self._counted.clear()
        super().read(chunk, scales)

    def take(self, name: str, place: Place, inputs: Callable[[], NDArray[np.float32]]) -> None:
        """Add `inputs` to the group of matrices that read what is at this place."""
        group = self._met.get(place) if name not in self._counted else name
        if group is None:
            group = self.group_of.get(name, name)
            self._met[place] = group
            values = inputs()
            if group not in self.sums:
                self.sums[group] = np.zeros((values.shape[1], values.shape[1]))
                self.tokens[group] = 0
            self.sums[group] += values.T @ values
            self.tokens[group] += len(values)
        self._counted.add(name)
        self.group_of[name] = group
