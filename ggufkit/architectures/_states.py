"""The tables that state-space models share: Mamba's selective scan, and Mamba 2's with heads and groups."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ggufkit.architectures._ops import Array, NegativeExponential, Reshape, Squeeze
from ggufkit.architectures._sizes import Config, SizeTable, size
from ggufkit.architectures._spec import MetadataTable, TensorTable, to
from ggufkit.architectures._state_ops import DecayOfHeads
from ggufkit.errors import CheckpointError

MAMBA_MIXER: TensorTable = {
    "in_proj": "ssm_in",
    "conv1d": to("ssm_conv1d", op=Squeeze()),
    "x_proj": "ssm_x",
    "dt_proj": "ssm_dt",
    "A_log": to("ssm_a", op=NegativeExponential()),
    "D": "ssm_d",
    "out_proj": "ssm_out",
}
MAMBA_SHAPES: Mapping[str, str] = {
    "ssm_in": "2*inner hidden",
    "ssm_conv1d": "inner kernel",
    "ssm_x": "dt_rank+2*state inner",
    "ssm_dt": "inner dt_rank",
    "ssm_a": "inner state",
    "ssm_d": "inner",
    "ssm_out": "hidden inner",
}
MAMBA2_MIXER: TensorTable = {
    "in_proj": "ssm_in",
    "conv1d": to("ssm_conv1d", op=Squeeze()),
    "dt_bias": "ssm_dt.bias",
    "A_log": to("ssm_a", op=DecayOfHeads()),
    "D": to("ssm_d", op=Reshape("ssm_heads 1")),
    "norm": to("ssm_norm", op=Reshape("groups group")),
    "out_proj": "ssm_out",
}
MAMBA2_SHAPES: Mapping[str, str] = {
    "ssm_in": "2*inner+2*groups*state+ssm_heads hidden",
    "ssm_conv1d": "inner+2*groups*state kernel",
    "ssm_dt.bias": "ssm_heads",
    "ssm_a": "ssm_heads 1",
    "ssm_d": "ssm_heads 1",
    "ssm_norm": "groups group",
    "ssm_out": "hidden inner",
}
STATE_BIASES = "ssm_conv1d"  # zeros where the model has none: see `no_conv_bias`
STATE: MetadataTable = {
    "ssm.conv_kernel": "kernel",
    "ssm.inner_size": "inner",
    "ssm.state_size": "state",
    "ssm.time_step_rank": "dt_rank",
}
GROUPED_STATE: MetadataTable = {**STATE, "ssm.time_step_rank": "ssm_heads", "ssm.group_count": "groups"}
# What llama.cpp's converter writes for models that have no attention: a context of no meaning, and sizes of nothing.
NO_ATTENTION: MetadataTable = {
    "context_length": lambda c: 2**20,  # noqa: ARG005 - a constant
    "feed_forward_length": lambda c: 0,  # noqa: ARG005 - a constant
    "attention.head_count": lambda c: 0,  # noqa: ARG005 - a constant
}
GROUP: SizeTable = {"group": lambda c: c["inner"] // c["groups"]}


def inside(prefix: str, mixer: TensorTable) -> TensorTable:
    """Put `prefix.` before every source of a mixer's table."""
    return {f"{prefix}.{source}": entry for source, entry in mixer.items()}


def rank(key: str) -> Callable[[Config], int]:
    """Read the rank of the time step's projection: "auto", or nothing, is a sixteenth of the width, rounded up."""

    def read(config: Config) -> int:
        given = config.get(key)
        return math.ceil(config["hidden_size"] / 16) if given in (None, "auto") else int(given)

    return read


def no_conv_bias(key: str, rows: str) -> Callable[[Config], Mapping[str, Array]]:
    """Make the zeros that llama.cpp wants for a convolution's bias where the config's `key` says that it has none."""

    def make(config: Config) -> Mapping[str, Array]:
        if config.get(key) is not False:
            return {}
        zeros = np.zeros(size(config, rows), np.float32)
        return {f"blk.{block}.ssm_conv1d.bias": zeros for block in _recurrent(config)}

    return make


def _recurrent(config: Config) -> Iterator[int]:
    kinds = config.get("block_kinds") or []
    yield from (block for block in range(config["layers"]) if not kinds or "recurrent" in kinds[block])


def every(config: Config, period: str, offset: str) -> list[bool]:
    """Tell for each block whether it is one of those that come once in a `period`, the first at `offset`.

    Raises:
        CheckpointError: the period is not a positive number, or the offset not below it.
    """
    length, start = config[period], config[offset]
    if not isinstance(length, int) or not isinstance(start, int) or not 0 <= start < length:
        raise CheckpointError(f"config.json: {offset} is {start!r}, {period} is {length!r}: no such period")
    return [block % length == start for block in range(config["layers"])]


def require_unlimited_steps(config: Config) -> None:
    """Refuse a limit to the time step, which llama.cpp does not apply; transformers writes "none" as 0 to infinity.

    Raises:
        CheckpointError: the time step is limited.
    """
    limits = config.get("time_step_limit")
    if limits is None:
        return
    if isinstance(limits, list) and len(limits) == 2:
        low, high = (float(limit["__float__"]) if isinstance(limit, Mapping) else limit for limit in limits)
        if low == 0 and high == math.inf:
            return
    raise CheckpointError(f"config.json: time_step_limit is {limits!r}; llama.cpp does not limit the time step")


def heads_by_block(config: Config) -> list[int]:
    """Give the number of key and value heads of each block: none where the block does not attend."""
    return [config["kv_heads"] if "attention" in kinds else 0 for kinds in config["block_kinds"]]


def require_both_kinds(config: Config) -> None:
    """Refuse a hybrid whose blocks all attend, or of which none does: llama.cpp ends the process at the first token.

    Raises:
        CheckpointError: all blocks are of one kind.
    """
    kinds = {"attention" if "attention" in kinds else "recurrent" for kinds in config["block_kinds"]}
    if len(kinds) < 2:
        raise CheckpointError(
            f"config.json makes all {config['layers']} layers {' and '.join(kinds)} ones; llama.cpp runs this "
            "architecture only with layers of both kinds"
        )


def kind(config: Config, block: int) -> str:
    """Say what a block is, for specs that work out the `block_kinds` of a config."""
    return str(config["block_kinds"][block])
