"""The gated delta net of Qwen 3 Next and Qwen 3.5: linear attention whose value heads are grouped by key head.

ggml repeats key heads tile after tile (k0 k1 k0 k1), transformers each in its place (k0 k0 k1 k1). Qwen 3.5's
GGUF therefore holds value heads in the tiled order: the first of every group, then the second of every group...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggufkit.architectures._ops import Array, NegativeExponential, Shape, TakesTheWhole
from ggufkit.architectures._sizes import Config, SizeTable, size
from ggufkit.errors import CheckpointError

SIZES: SizeTable = {
    "k_heads": "linear_num_key_heads",
    "v_heads": "linear_num_value_heads",
    "k_dim": "linear_key_head_dim",
    "v_dim": "linear_value_head_dim",
    "conv": "linear_conv_kernel_dim",
    "shared_ff": "shared_expert_intermediate_size",
}


@dataclass(frozen=True, slots=True)
class UngroupQkvz(TakesTheWhole):
    """Take apart in_proj_qkvz, whose rows are q, k, values and gates of one key head after the other.

    Gives the queries of all heads, then all keys, then all values, as one tensor; and all gates (z) as another.
    """

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give (2 keys + values) x hidden and values x hidden."""
        (source,) = sources
        keys, values = size(config, "k_heads*k_dim"), size(config, "v_heads*v_dim")
        if len(source) != 2 or source[0] != 2 * keys + 2 * values:
            raise CheckpointError(f"shape {source} is not that of q, k, v and z of {keys} + {keys} + 2 x {values} rows")
        return [(2 * keys + values, source[1]), (values, source[1])]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Take the groups apart."""
        (rows,) = sources
        heads, key, value = config["k_heads"], config["k_dim"], size(config, "v_heads*v_dim") // config["k_heads"]
        grouped = rows.reshape(heads, -1, rows.shape[-1])
        parts = np.split(grouped, np.cumsum([key, key, value]).tolist(), axis=1)
        q, k, v, z = (part.reshape(-1, rows.shape[-1]) for part in parts)
        return [np.concatenate([q, k, v]), z]


@dataclass(frozen=True, slots=True)
class TileValueHeads(TakesTheWhole):
    """Bring value heads from grouped into tiled order, along the rows or, with `columns`, along the last axis.

    `head` is the formula of a head's length, `after` that of what goes before the values and stays as it is.
    """

    head: str = "1"
    after: str | None = None
    columns: bool = False

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Keep the shape; its rows must be what goes before and the value heads."""
        (source,) = sources
        expected = self._before(config) + size(config, f"v_heads*{self.head}")
        if not source or source[-1 if self.columns else 0] != expected or config["v_heads"] % config["k_heads"]:
            raise CheckpointError(f"shape {source} is not that of {config['v_heads']} value heads: {expected} expected")
        return [source]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Reorder."""
        (source,) = sources
        heads, before = config["k_heads"], self._before(config)
        order = np.arange(size(config, f"v_heads*{self.head}"))
        order = order.reshape(heads, -1, size(config, self.head)).swapaxes(0, 1).reshape(-1)
        order = np.concatenate([np.arange(before), before + order])
        return [source[..., order] if self.columns else source[order]]

    def _before(self, config: Config) -> int:
        return size(config, self.after) if self.after else 0


@dataclass(frozen=True, slots=True)
class TileDecay(TileValueHeads):
    """The same of A_log, of which GGUF stores -exp(A_log)."""

    moves_only: ClassVar[bool] = False

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Take the exponential, change the sign, reorder."""
        return TileValueHeads.apply(self, NegativeExponential().apply(sources, config), config)
