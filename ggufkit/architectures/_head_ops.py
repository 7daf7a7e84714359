"""Tensor operations that know attention heads: rope's order of rows, fused q, k and v, latent attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ggufkit.architectures._ops import Array, Shape, TakesTheWhole
from ggufkit.architectures._sizes import Config, size
from ggufkit.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class UndoRopePermute:
    """HF stores q and k rows as two half-rotations a head; ggml's NORM rope wants them interleaved.

    `heads` names the number of heads, `head` the size of one, `rotary` the size of its rotated part, which comes first.
    Works on weights (rows x columns) and on biases (rows).
    """

    heads: str = "heads"
    head: str = "head"
    rotary: str | None = None
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Keep the shape; the rows must be those of the heads, and what is rotated must have two halves."""
        (source,) = sources
        rows, rotated = size(config, self.head), size(config, self.rotary or self.head)
        heads = config[self.heads]
        counts = set(heads) if isinstance(heads, list) else {heads}  # one for each block, perhaps
        if not source or source[0] not in {count * rows for count in counts} or rotated % 2 or rotated > rows:
            raise CheckpointError(f"shape {source} is not that of {heads} heads ({self.heads}) of {rows} rows each")
        return [source]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Interleave the two halves of each head's rotated part."""
        (rows,) = sources
        rotated = size(config, self.rotary or self.head)
        heads = rows.reshape(-1, size(config, self.head), *rows.shape[1:])
        halves = heads[:, :rotated].reshape(-1, 2, rotated // 2, *rows.shape[1:])
        result = heads.copy()
        result[:, :rotated] = halves.swapaxes(1, 2).reshape(-1, rotated, *rows.shape[1:])
        return [result.reshape(rows.shape)]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Head by head."""
        return size(config, self.head)


@dataclass(frozen=True, slots=True)
class UngroupQkv(TakesTheWhole):
    """Take apart rows that are grouped by key head: the group's queries, then its key, then its value.

    With as many key heads as query heads this is GPT-NeoX's order, q, k, v of each head; with fewer, Falcon's and
    InternLM 2's. Gives q, k and v, each head after head; `Then(UngroupQkv(), Concatenate())` makes one tensor of them.
    """

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the shapes of q, k and v."""
        (source,) = sources
        heads, groups, head = config["heads"], config["kv_heads"], size(config, "head")
        if not source or heads % groups or source[0] != (heads + 2 * groups) * head:
            raise CheckpointError(f"shape {source} is not that of {heads} + 2 x {groups} heads of {head} rows each")
        return [(count * head, *source[1:]) for count in (heads, groups, groups)]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Take the groups apart."""
        (rows,) = sources
        groups, head = config["kv_heads"], size(config, "head")
        grouped = rows.reshape(groups, -1, head, *rows.shape[1:])
        return [part.reshape(-1, *rows.shape[1:]) for part in (grouped[:, :-2], grouped[:, -2], grouped[:, -1])]


@dataclass(frozen=True, slots=True)
class SplitKvB(TakesTheWhole):
    """Split MLA's kv_b_proj, (heads x (nope + value)) x rank, into k_b (transposed, for absorption) and v_b."""

    value: str = "v_head_dim"

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

    def _sizes(self, config: Config) -> tuple[int, int, int]:
        return size(config, "heads"), size(config, "nope"), size(config, self.value)
