"""Pure tensor operations: arrays in, arrays out, and the shapes without touching data.

An op is a frozen value. It holds parameter *names* (`heads="num_attention_heads"`), never a config or a tensor, so one
op can be shared by any number of specs. Shapes are row-major, outermost axis first, as torch prints them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures._sizes import Config, head_count, head_dim
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

        Where it is a number, the op has one target, and applying it to rows i..j of the sources, one source after the
        other, gives the target's bytes in order: this is what lets a tensor larger than memory pass through.
        """


@dataclass(frozen=True, slots=True)
class Copy:
    """Take the tensor as it is."""

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Keep the shape."""
        return list(sources)

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Keep the elements."""
        return list(sources)

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


@dataclass(frozen=True, slots=True)
class AddOne:
    """Gemma stores `w` and computes `(1 + w) * x`; GGUF stores `1 + w`."""

    moves_only: ClassVar[bool] = False

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Keep the shape."""
        return list(sources)

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Add one, in float32."""
        return [source + np.float32(1) for source in sources]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1


@dataclass(frozen=True, slots=True)
class UndoRopePermute:
    """HF stores q and k rows as two half-rotations a head; ggml's NORM rope wants them interleaved.

    `heads` names the config's number of heads. Works on weights (rows x columns) and on biases (rows).
    """

    heads: str
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Keep the shape; the rows must be those of the heads, and a head must have two halves."""
        (source,) = sources
        heads, size = head_count(config, self.heads), head_dim(config)
        if not source or source[0] != heads * size or size % 2:
            raise CheckpointError(f"shape {source} is not that of {heads} heads ({self.heads}) of {size} rows each")
        return [source]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Interleave the two halves of each head."""
        (rows,) = sources
        halves = rows.reshape(-1, 2, head_dim(config) // 2, *rows.shape[1:])
        return [halves.swapaxes(1, 2).reshape(rows.shape)]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Head by head."""
        return head_dim(config)


@dataclass(frozen=True, slots=True)
class Stack:
    """Stack one tensor per expert into a single tensor with a leading expert axis."""

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
class SplitKvB:
    """Split MLA's kv_b_proj, (heads x (nope + value)) x rank, into k_b (transposed, for absorption) and v_b."""

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give heads x rank x nope for k_b and heads x value x rank for v_b."""
        (source,) = sources
        heads, nope, value = self._sizes(config)
        if len(source) != 2 or source[0] != heads * (nope + value):
            raise CheckpointError(f"kv_b_proj is {source}, expected {heads * (nope + value)} rows")
        return [(heads, source[1], nope), (heads, value, source[1])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Cut each head's rows in two."""
        (kv_b,) = sources
        heads, nope, value = self._sizes(config)
        per_head = kv_b.reshape(heads, nope + value, kv_b.shape[-1])
        return [per_head[:, :nope].swapaxes(1, 2), per_head[:, nope:]]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Two targets: the whole tensor at once."""
        return None

    @staticmethod
    def _sizes(config: Config) -> tuple[int, int, int]:
        return config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
