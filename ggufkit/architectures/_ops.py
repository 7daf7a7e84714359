"""Pure tensor operations: arrays in, arrays out, and the shapes without touching data.

An op is a frozen value. It holds *names* of sizes (`heads="kv_heads"`) and formulas made of them, never a config or a
tensor, so one op can be shared by any number of specs. Shapes are row-major, outermost axis first, as torch prints
them. Ops that are about attention heads are in `_head_ops.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures import _sizes
from ggufkit.architectures._sizes import Config
from ggufkit.errors import CheckpointError

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


class Op(Protocol):
    """Turns the tensors behind one source pattern into the tensors of its targets."""

    moves_only: ClassVar[bool]
    """Elements are moved, not computed with: any element type will do. Otherwise the op is given float32."""

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the shape of each target, without data. Raises CheckpointError when the sources do not fit the op."""

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Make the targets."""

    def rows_together(self, source: Shape, config: Config) -> int | None:
        """Give the number of leading rows that can be done apart from the rest; None when it takes the whole.

        Where it is a number, applying it to rows i..j of the sources, one source after the other, gives each target's
        bytes in order and evenly: this is what lets a tensor larger than memory pass through.
        """


class _KeepsShapes:
    """Each source becomes a target of the same shape, row by row."""

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Keep the shapes."""
        return list(sources)

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


class TakesTheWhole:
    """The op moves elements between rows, so it takes whole tensors."""

    moves_only: ClassVar[bool] = True

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """The whole tensor at once."""
        return None


@dataclass(frozen=True, slots=True)
class Copy(_KeepsShapes):
    """Take the tensor as it is."""

    moves_only: ClassVar[bool] = True

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Keep the elements."""
        return list(sources)


@dataclass(frozen=True, slots=True)
class AddOne(_KeepsShapes):
    """Gemma stores `w` and computes `(1 + w) * x`; GGUF stores `1 + w`."""

    moves_only: ClassVar[bool] = False

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Add one, in float32."""
        return [source + np.float32(1) for source in sources]


@dataclass(frozen=True, slots=True)
class NegativeExponential(_KeepsShapes):
    """State-space models store log(-A); GGUF stores A = -exp(A_log)."""

    moves_only: ClassVar[bool] = False

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Take the exponential and change the sign; rounded to float32 once, from float64."""
        return [-np.exp(source.astype(np.float64)).astype(np.float32) for source in sources]


@dataclass(frozen=True, slots=True)
class Reshape:
    """Give the tensor another shape, such as `"inner 1"` or `"inner kernel"`; elements stay in their order."""

    shape: str
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the new shape, of as many elements."""
        (source,) = sources
        target = _sizes.shape(config, self.shape)
        if np.prod(source, dtype=int) != np.prod(target, dtype=int):
            raise CheckpointError(f"shape {source} does not fit into {target}")
        return [target]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Reshape."""
        return [sources[0].reshape(_sizes.shape(config, self.shape))]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """The whole tensor at once: such tensors are small."""
        return None


@dataclass(frozen=True, slots=True)
class Squeeze:
    """Drop the middle axis of length one of a convolution: channels x 1 x kernel becomes channels x kernel.

    A bias (a vector) beside the weight stays.
    """

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Give channels x kernel."""
        (source,) = sources
        if len(source) in (1, 2):  # a bias, or squeezed already
            return [source]
        if len(source) != 3 or source[1] != 1:
            raise CheckpointError(f"shape {source} is not channels x 1 x kernel")
        return [(source[0], source[2])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Reshape."""
        return [source.reshape(len(source), -1) if source.ndim > 1 else source for source in sources]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """The whole tensor at once: such tensors are small."""
        return None


@dataclass(frozen=True, slots=True)
class Transpose(TakesTheWhole):
    """Swap the last two axes: GPT-2's Conv1D and some stacked experts are stored inputs x outputs."""

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Swap; vectors (a bias beside the weight) stay."""
        return [(*source[:-2], *source[-1:-3:-1]) for source in sources]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Swap; vectors stay."""
        return [source.swapaxes(-1, -2) if source.ndim > 1 else source for source in sources]


@dataclass(frozen=True, slots=True)
class Stack:
    """Stack one tensor per expert into a single tensor with a leading expert axis.

    `count` names the size that says how many there are, where it is not experts that are stacked.
    """

    count: str = "experts"
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Add the leading axis; experts of different shapes are an error."""
        if len(set(sources)) != 1:
            raise CheckpointError(f"experts have different shapes: {sorted(set(sources))}")
        return [(len(sources), *sources[0])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Stack along a new first axis."""
        return [np.stack(sources)]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row: the stack's bytes are those of the experts, one after the other."""
        return 1


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Lay tensors one after the other along their first axis: q, k and v into one, for instance."""

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Add up the first axes; the others must be equal."""
        if len({source[1:] for source in sources}) != 1:
            raise CheckpointError(f"tensors of shapes {list(sources)} do not go one after the other")
        return [(sum(source[0] for source in sources), *sources[0][1:])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Concatenate along the first axis."""
        return [np.concatenate(sources)]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


@dataclass(frozen=True, slots=True, init=False)
class Split(TakesTheWhole):
    """Cut a tensor along an axis into parts, each as long as its formula says; a bias (a vector) is cut likewise.

    `axis` counts from the end, as for weights of outputs x inputs or experts x outputs x inputs: -2 is the outputs.
    """

    parts: tuple[str, ...]
    axis: int

    def __init__(self, *parts: str, axis: int = -2) -> None:
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "axis", axis)

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the parts' shapes; they must add up to the whole."""
        (source,) = sources
        sizes = [_sizes.size(config, part) for part in self.parts]
        axis = self._axis(len(source))
        if source[axis] != sum(sizes):
            raise CheckpointError(f"shape {source} does not split into {' + '.join(map(str, sizes))}")
        return [(*source[:axis], size, *source[axis + 1 :]) for size in sizes]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Cut."""
        (source,) = sources
        sizes = [_sizes.size(config, part) for part in self.parts]
        return np.split(source, np.cumsum(sizes)[:-1].tolist(), axis=self._axis(source.ndim))

    def _axis(self, dimensions: int) -> int:
        return max(0, dimensions + self.axis)


@dataclass(frozen=True, slots=True, init=False)
class Each(TakesTheWhole):
    """Do an op of its own to each of several tensors: behind `Then`, to each of the parts that the last op made."""

    ops: tuple[Op, ...]

    def __init__(self, *ops: Op) -> None:
        if not all(op.moves_only for op in ops):
            raise ValueError("Each takes ops that only move elements")
        object.__setattr__(self, "ops", ops)

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the shape that each op makes of its source."""
        return [op.shapes([source], config)[0] for op, source in zip(self.ops, sources, strict=True)]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Apply each op to its source."""
        return [op.apply([source], config)[0] for op, source in zip(self.ops, sources, strict=True)]


@dataclass(frozen=True, slots=True, init=False)
class Then(TakesTheWhole):
    """Do one op after another, each but the first with what the one before it made."""

    ops: tuple[Op, ...]

    def __init__(self, *ops: Op) -> None:
        if not all(op.moves_only for op in ops):
            raise ValueError("Then takes ops that only move elements")
        object.__setattr__(self, "ops", ops)

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Follow the shapes through all ops."""
        shapes = list(sources)
        for op in self.ops:
            shapes = op.shapes(shapes, config)
        return shapes

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Apply one op after another."""
        arrays = list(sources)
        for op in self.ops:
            arrays = op.apply(arrays, config)
        return arrays
