"""Where channels can be scaled without changing what a model computes: between what makes them and what reads them.

Three such places are known: a norm and the matrices behind it; the rows of values and the columns of attention's output
matrix, for attention mixes tokens but not channels; the rows that a gate multiplies and the columns of the matrix
behind. Whether a model computes nothing else with these channels is not known from names alone, so whoever scales them
has to compare what the model says before and after. The last norm is left alone: what comes out of it are embeddings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.weights import Floats, rows_of
from ggufkit.gguf_file.metadata import Metadata
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo

_WEIGHT = ".weight"
_OF_BLOCK = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight|\.bias)?")
# What reads the norm before attention, or before what stands in its place; and what that part of a block holds besides.
_ATTENTION = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_gate",
    "attn_q_a",
    "attn_kv_a_mqa",
    "ssm_in",
    "ssm_ba",
    "ssm_alpha",
    "ssm_beta",
    "shortconv.in_proj",
)
_OF_ATTENTION = (
    "attn_norm",
    "attn_output",
    "attn_q_norm",
    "attn_k_norm",
    "attn_sinks",
    "attn_q_a_norm",
    "attn_q_b",
    "attn_kv_a_norm",
    "attn_kv_b",
    "attn_k_b",
    "attn_v_b",
    "ssm_a",
    "ssm_b_norm",
    "ssm_c_norm",
    "ssm_conv1d",
    "ssm_d",
    "ssm_dt",
    "ssm_dt_norm",
    "ssm_norm",
    "ssm_out",
    "ssm_x",
    "shortconv.conv",
    "shortconv.out_proj",
)
_FEED_FORWARD = (
    "ffn_gate",
    "ffn_up",
    "ffn_gate_inp",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_gate_up_exps",
    "ffn_gate_inp_shexp",
    "ffn_gate_shexp",
    "ffn_up_shexp",
)
_OF_FEED_FORWARD = ("ffn_norm", "ffn_down", "ffn_down_exps", "ffn_down_shexp", "exp_probs_b")
# What comes out of a part of a block goes through these, and per-layer embeddings into what is added up.
_OF_NEITHER = (
    "attn_post_norm",
    "post_attention_norm",
    "ffn_post_norm",
    "post_ffw_norm",
    "rope_freqs",
    "inp_gate",
    "proj",
    "post_norm",
    "layer_output_scale",
)
# Limits of what goes through channels: whether a text meets them is chance, so that no comparison would tell.
_CLAMPS_OF_VALUES = ("attention.clamp_kqv",)
_CLAMPS_OF_GATED = ("swiglu_clamp_exp", "swiglu_clamp_shexp")
_KNOWN = frozenset((*_ATTENTION, *_OF_ATTENTION, *_FEED_FORWARD, *_OF_FEED_FORWARD, *_OF_NEITHER))


@dataclass(frozen=True, slots=True)
class Channels:
    """`count` channels: the `vectors` with an element for each, the matrix whose rows make them, and their `readers`.

    Each reader has the channels as columns, in `heads` equal parts, every part `repeats` times in a row: query heads of
    a group read the same values. Where maker and reader are stacks of `experts`, each of them has channels of its own.
    """

    name: str
    count: int
    vectors: tuple[str, ...]
    maker: str | None
    readers: tuple[str, ...]
    heads: int = 1
    repeats: int = 1
    experts: int = 1

    @property
    def kind(self) -> str:
        """What they are channels of, in any block: a norm, or a matrix."""
        return self.name.rpartition(".")[2]

    def spread(self, values: Floats) -> Floats:
        """Give each column of a reader what its channel has: [experts, count] to [experts, count * repeats]."""
        parts = values.reshape(self.experts, self.heads, 1, -1)
        return np.repeat(parts, self.repeats, axis=2).reshape(self.experts, -1)

    def gathered(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give each channel the mean of its columns: [experts, count * repeats] to [experts, count]."""
        parts = columns.reshape(self.experts, self.heads, self.repeats, -1)
        found: NDArray[np.float64] = parts.mean(axis=2).reshape(self.experts, -1)
        return found


def channels_of(headers: Sequence[GgufHeader]) -> tuple[Channels, ...]:
    """List the channels of a model that can be scaled, in the order of its blocks."""
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    blocks: dict[int, set[str]] = {}
    for name in tensors:
        if there := _OF_BLOCK.fullmatch(name):
            blocks.setdefault(int(there[1]), set()).add(there[2])
    found = []
    for number, parts in sorted(blocks.items()):
        block = f"blk.{number}."
        found += _behind_norms(block, parts, tensors)
        found += _between_matrices(block, parts, tensors, headers[0].metadata, number)
    return tuple(found)


def _is_known(parts: set[str]) -> tuple[bool, bool]:
    """Say of which part of a block all tensors are known: of attention (or what is in its place), of feed-forward."""
    unknown = parts - _KNOWN
    attention = all(part.startswith("ffn_") for part in unknown)
    return attention, all(part.startswith(("attn_", "ssm_", "shortconv.")) for part in unknown)


def _behind_norms(block: str, parts: set[str], tensors: Mapping[str, TensorInfo]) -> list[Channels]:
    is_attention_known, is_feed_forward_known = _is_known(parts)
    second = _norm_of_feed_forward(parts)
    there: list[tuple[str, tuple[str, ...], bool]] = [
        ("attn_norm", _ATTENTION, is_attention_known),
        ("attn_q_a_norm", ("attn_q_b",), is_attention_known),
    ]
    if second is not None:
        there.append((second, _FEED_FORWARD, is_feed_forward_known))
    elif parts & set(_FEED_FORWARD):  # which then reads the first norm, too
        there[0] = ("attn_norm", (*_ATTENTION, *_FEED_FORWARD), is_attention_known and is_feed_forward_known)
    found = [
        _behind_norm(f"{block}{norm}", [f"{block}{reader}" for reader in readers if reader in parts], tensors)
        for norm, readers, is_known in there
        if is_known
    ]
    return [each for each in found if each is not None]


def _between_matrices(
    block: str, parts: set[str], tensors: Mapping[str, TensorInfo], metadata: Metadata, number: int
) -> list[Channels]:
    is_attention_known, is_feed_forward_known = _is_known(parts)
    found: list[Channels | None] = []
    heads = _heads(metadata, number)
    if is_attention_known and heads and {"attn_v", "attn_output"} <= parts and not _has(metadata, _CLAMPS_OF_VALUES):
        found.append(_between(f"{block}attn_v", f"{block}attn_output", tensors, heads))
    if is_feed_forward_known and not _has(metadata, _CLAMPS_OF_GATED):
        found += [
            _between(f"{block}ffn_up{ending}", f"{block}ffn_down{ending}", tensors)
            for ending in ("", "_exps", "_shexp")
            if {f"ffn_{part}{ending}" for part in ("gate", "up", "down")} <= parts
        ]
    return [each for each in found if each is not None]


def _has(metadata: Metadata, keys: Sequence[str]) -> bool:
    """Whether any of an architecture's keys has a number above 0, for any block: limits, whose zeros are none."""
    values = [metadata.get(f"{metadata.get('general.architecture')}.{key}") for key in keys]
    return any(
        isinstance(one, int | float) and one > 0
        for value in values
        for one in (value if isinstance(value, list) else (value,))
    )


def _norm_of_feed_forward(parts: set[str]) -> str | None:
    """Name the norm before the feed-forward part: some call it by what is before it; where a third is last, it is that.

    A block whose feed-forward parts have several norms of their own is not known.
    """
    if "ffn_norm" in parts:
        return "ffn_norm"
    is_before = "attn_norm" in parts and "post_ffw_norm" not in parts
    return "post_attention_norm" if is_before and "post_attention_norm" in parts else None


def _behind_norm(norm: str, readers: Sequence[str], tensors: Mapping[str, TensorInfo]) -> Channels | None:
    """Return the channels of a norm, None where there is none, or where not all that reads it has as many columns."""
    weight = tensors.get(f"{norm}{_WEIGHT}")
    matrices = [tensors.get(f"{reader}{_WEIGHT}") for reader in readers]
    if weight is None or not matrices:
        return None
    (count,) = weight.shape if len(weight.shape) == 1 else (0,)
    there = [each for each in matrices if each is not None and each.shape[0] == count]
    if not count or len(there) < len(matrices):
        return None
    return Channels(norm, count, _vectors(norm, tensors), None, tuple(each.name for each in there))


def _between(
    maker: str, reader: str, tensors: Mapping[str, TensorInfo], heads: tuple[int, int] | None = None
) -> Channels | None:
    """Return the channels from a matrix to the next; `heads` are those of queries and of values."""
    made, read = (tensors.get(f"{name}{_WEIGHT}") for name in (maker, reader))
    if made is None or read is None or not len(made.shape) == len(read.shape) > 1:
        return None
    (_, count, experts), (columns, _, others) = rows_of(made), rows_of(read)
    queries, values = heads or (1, 1)
    if queries % values or count % values or columns != count * (queries // values) or experts != others:
        return None
    biases = tuple(name for name in _vectors(maker, tensors) if name != made.name)
    return Channels(maker, count, biases, made.name, (read.name,), values, queries // values, experts)


def _vectors(name: str, tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    return tuple(each for each in (f"{name}{_WEIGHT}", f"{name}.bias") if each in tensors)


def _heads(metadata: Metadata, block: int) -> tuple[int, int] | None:
    """Return how many heads a block has for queries, and for values."""
    prefix = f"{metadata.get('general.architecture')}.attention"
    queries = metadata.get(f"{prefix}.head_count")
    values = metadata.get(f"{prefix}.head_count_kv", queries)
    found = tuple(each[block] if isinstance(each, list) and block < len(each) else each for each in (queries, values))
    match found:
        case (int(one), int(other)) if one > 0 and other > 0:
            return one, other
    return None
