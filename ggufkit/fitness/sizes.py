"""The numbers that say how a model is built: llama.cpp asserts them (`load_hparams` in llama-model.cpp), or trusts."""

import math
import reprlib
from collections.abc import Collection, Iterator

from ggufkit.findings import Finding, Severity
from ggufkit.gguf_file.reader import GgufHeader, ValueType

MOST_BLOCKS = 512  # LLAMA_MAX_LAYERS
MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MOST = (1 << 31) - 1  # what llama.cpp holds them in
_ROPE_SCALING = ("linear", "longrope", "none", "yarn")  # llama-model.cpp, LLAMA_ROPE_SCALING_TYPES
_COUNTS = ("block_count", "context_length", "embedding_length", "expert_count", "nextn_predict_layers")
_COUNTS_OR_LISTS = (
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "expert_used_count",
)
_NUMBERS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base", "rope.scaling.factor")
_LIST_KINDS = {ValueType.UINT32, ValueType.INT32}
_RESETS_EXPERTS = {"hunyuan-dense", "hunyuan_vl"}  # a single expert is none there


def check_sizes(header: GgufHeader, architecture: str, tensors: Collection[str]) -> Iterator[Finding]:
    """Check kinds and ranges of the keys `<architecture>.*`; `tensors` are the names in all parts of the model."""
    sizes = _Sizes(header, architecture)
    wrong = list(_wrong_kinds(sizes))
    yield from wrong
    if wrong:
        return
    blocks = sizes.integer("block_count")
    if blocks is None:
        return
    if not 1 <= blocks <= MOST_BLOCKS:
        yield sizes.fault("block_count", f"1 to {MOST_BLOCKS}")
        return
    for name in ("context_length", "embedding_length"):
        number = sizes.integer(name)
        if number is not None and not 1 <= number <= _MOST:
            yield sizes.fault(name, f"1 to {_MOST:,}")
    if (sizes.integer("nextn_predict_layers") or 0) > blocks:
        yield sizes.fault("nextn_predict_layers", f"at most the {blocks} blocks")
    for name in _COUNTS_OR_LISTS:
        found = sizes.each(name, blocks)
        if found is not None and len(found) != blocks:
            yield sizes.fault(name, f"a number, or one for each of {blocks} blocks")
            return
    yield from _experts(sizes, architecture, blocks)
    yield from _heads(sizes, blocks, tensors)
    yield from _floats(sizes)


class _Sizes:
    """The keys of one architecture."""

    def __init__(self, header: GgufHeader, architecture: str) -> None:
        self.metadata = header.metadata
        self._prefix = f"{architecture}."

    def kind(self, name: str) -> tuple[ValueType, ValueType | None] | None:
        """Return the kind of a value and of its elements; None when the key is not there."""
        entry = self.metadata.entries.get(self._prefix + name)
        return (entry.kind, entry.element_kind) if entry else None

    def integer(self, name: str) -> int | None:
        """Return a whole number; None when it is missing or none."""
        value = self.metadata.get(self._prefix + name) if self.kind(name) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def number(self, name: str) -> float | None:
        """Return a float; None when it is missing or none."""
        value = self.metadata.get(self._prefix + name) if self.kind(name) else None
        return value if isinstance(value, float) else None

    def text(self, name: str) -> str | None:
        """Return a string; None when it is missing or none."""
        value = self.metadata.get(self._prefix + name) if self.kind(name) else None
        return value if isinstance(value, str) else None

    def each(self, name: str, blocks: int) -> list[int] | None:
        """Return a number for each block, from a list of them or one for all; None when the key is missing."""
        kind = self.kind(name)
        if kind is None:
            return None
        if kind[0] is not ValueType.ARRAY:
            return [self.integer(name) or 0] * blocks
        if self.metadata.entries[self._prefix + name].count > MOST_BLOCKS:
            return []
        found = self.metadata[self._prefix + name]
        return [int(value) for value in found] if isinstance(found, list) else []

    def fault(self, name: str, wanted: str) -> Finding:
        """Say what a key is, and what it must be."""
        key = self._prefix + name
        value = self.metadata.get(key) if key in self.metadata.entries else None
        said = "missing" if value is None else reprlib.repr(value)
        return Finding(Severity.UNFIT, f"is {said}, but must be {wanted}", key)


def _wrong_kinds(sizes: _Sizes) -> Iterator[Finding]:
    for names, scalar, lists in (
        (_COUNTS, ValueType.UINT32, False),
        (_COUNTS_OR_LISTS, ValueType.UINT32, True),
        (_NUMBERS, ValueType.FLOAT32, False),
    ):
        for name in names:
            kind = sizes.kind(name)
            if kind is None or kind == (scalar, None):
                continue
            if lists and kind[0] is ValueType.ARRAY and (kind[1] in _LIST_KINDS or kind[1] is ValueType.BOOL):
                continue
            yield sizes.fault(name, f"of type {scalar.name}{' or a list of such' if lists else ''}")


def _experts(sizes: _Sizes, architecture: str, blocks: int) -> Iterator[Finding]:
    experts = sizes.integer("expert_count") or 0
    used = max(sizes.each("expert_used_count", blocks) or [0])
    if architecture in _RESETS_EXPERTS and experts <= 1:
        return
    if experts > MOST_EXPERTS:
        yield sizes.fault("expert_count", f"0 to {MOST_EXPERTS}")
    elif not min(1, experts) <= used <= experts:
        yield sizes.fault("expert_used_count", f"1 to {experts}" if experts else "0")
    groups, groups_used = sizes.integer("expert_group_count") or 0, sizes.integer("expert_group_used_count") or 0
    if experts and groups > 1:
        if groups >= experts or experts % groups:
            yield sizes.fault("expert_group_count", f"a divisor of the {experts} experts")
        elif not 0 < groups_used < groups:
            yield sizes.fault("expert_group_used_count", f"1 to {groups - 1}")
    elif groups >= max(1, experts):
        yield sizes.fault("expert_group_count", "less than the number of experts" if experts else "0")


def _heads(sizes: _Sizes, blocks: int, tensors: Collection[str]) -> Iterator[Finding]:
    """Blocks that have queries need heads, and the heads of keys must divide them; blocks without may have none."""
    heads = sizes.each("attention.head_count", blocks)
    if heads is None:
        return
    shared = sizes.each("attention.head_count_kv", blocks) or heads
    for block, (count, of_keys) in enumerate(zip(heads, shared, strict=False)):
        with_queries = f"blk.{block}.attn_q.weight" in tensors or f"blk.{block}.attn_qkv.weight" in tensors
        if with_queries and count < 1:
            yield sizes.fault("attention.head_count", f"positive: block {block} has attention")
            return
        if of_keys == 0 and f"blk.{block}.ssm_conv1d_k.weight" in tensors:
            continue  # linear attention (kimi-linear.cpp and others): no heads of keys is how such a block is told
        if with_queries and f"blk.{block}.attn_k.weight" in tensors and (of_keys < 1 or count % of_keys):
            yield sizes.fault("attention.head_count_kv", f"a divisor of the {count} heads of block {block}")
            return


def _floats(sizes: _Sizes) -> Iterator[Finding]:
    for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon"):
        epsilon = sizes.number(name)
        if epsilon is not None and not (math.isfinite(epsilon) and epsilon >= 0):
            yield sizes.fault(name, "a number of 0 or more")
    for name in ("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "rope.scale_linear"):
        number = sizes.number(name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            yield sizes.fault(name, "a number of 0 or more")
    scaling = sizes.text("rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALING:
        yield sizes.fault("rope.scaling.type", f"one of {', '.join(_ROPE_SCALING)}")
