"""Tensor operations of state-space models and encoders: decays, factors folded into weights, rows left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggufkit.architectures import _sizes
from ggufkit.architectures._ops import Array, Shape
from ggufkit.architectures._sizes import Config
from ggufkit.errors import CheckpointError

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class DecayOfHeads:
    """Mamba 2 stores log(-A), one for each head; GGUF stores A = -exp(A_log) as a column.

    The exponential is rounded to float32 once, from float64: whoever computes it in float32 is off by one in the last
    place for about one element in a hundred.
    """

    moves_only: ClassVar[bool] = False

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Add an axis of one."""
        return [(*source, 1) for source in sources]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Take the exponential, change the sign, and make a column."""
        return [-np.exp(source.astype(np.float64)).astype(np.float32)[..., np.newaxis] for source in sources]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


@dataclass(frozen=True, slots=True, init=False)
class Scale:
    """Multiply by factors, given by the names of config keys or sizes, one after the other, in float32."""

    factors: tuple[str, ...]
    moves_only: ClassVar[bool] = False

    def __init__(self, *factors: str) -> None:
        object.__setattr__(self, "factors", factors)

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Keep the shapes; what the factors are named for must be numbers."""
        for name in self.factors:
            _number(config, name)
        return list(sources)

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Multiply."""
        results = list(sources)
        for name in self.factors:
            factor = _number(config, name)
            results = [result * factor for result in results]
        return results

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


@dataclass(frozen=True, slots=True)
class ScaleParts:
    """Multiply all rows by `factor`, then each run of rows, as long as its formula says, by its own factor.

    `parts` are formulas; the config's list `factors` has a factor for each.
    """

    factor: str
    factors: str
    parts: tuple[str, ...]
    moves_only: ClassVar[bool] = False

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Keep the shape; the parts must be all its rows."""
        (source,) = sources
        rows = [_sizes.size(config, part) for part in self.parts]
        if not source or source[0] != sum(rows):
            raise CheckpointError(f"shape {source} does not have {' + '.join(map(str, rows))} rows")
        _number(config, self.factor)
        self._of_parts(config)
        return [source]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Multiply."""
        rows = [_sizes.size(config, part) for part in self.parts]
        by_row = np.repeat(self._of_parts(config), rows)
        scaled = sources[0] * _number(config, self.factor)
        return [scaled * by_row.reshape(-1, *[1] * (scaled.ndim - 1))]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """The whole tensor at once: its rows have different factors."""
        return None

    def _of_parts(self, config: Config) -> Array:
        values = config[self.factors]
        if not isinstance(values, list) or len(values) != len(self.parts):
            raise CheckpointError(f"config.json: {self.factors} is {values!r}, expected {len(self.parts)} numbers")
        return np.array([_checked(self.factors, value) for value in values], np.float32)


@dataclass(frozen=True, slots=True)
class SkipRows:
    """Leave out the first rows, as many as a formula says: positions that Roberta's embedding has and never uses."""

    count: str
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give a shape of fewer rows."""
        (source,) = sources
        skipped = _sizes.size(config, self.count)
        if not source or source[0] <= skipped:
            raise CheckpointError(f"shape {source} has no rows after the first {skipped}")
        return [(source[0] - skipped, *source[1:])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Take the rows after the first ones."""
        return [sources[0][_sizes.size(config, self.count) :]]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """The whole tensor at once: it is small."""
        return None


def _number(config: Config, name: str) -> np.float32:
    return _checked(name, config[name])


def _checked(name: str, value: object) -> np.float32:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:  # nor NaN
        raise CheckpointError(f"config.json: {name} is {value!r:.40}, expected a number that float32 holds")
    return np.float32(value)
