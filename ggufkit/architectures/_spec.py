"""What a model architecture is to ggufkit: names, metadata, tensors, and what to refuse. Types only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from ggufkit.architectures._ops import Array, Copy, Op, Shape
from ggufkit.architectures._sizes import Config


@dataclass(frozen=True, slots=True)
class Maybe:
    """The first of these config keys that is set; when none is, the GGUF key is left out."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a source tensor goes and what happens to it on the way."""

    targets: tuple[str, ...]
    op: Op = field(default_factory=Copy)


MetadataTable: TypeAlias = Mapping[str, str | Maybe | Callable[[Config], Any]]
TensorTable: TypeAlias = Mapping[str, str | Rule | None]
ShapeTable: TypeAlias = Mapping[str, Callable[[Config], Shape]]


class Vocabulary(StrEnum):
    """Which tokenizer files an architecture's checkpoints bring, and the family's habits with them."""

    AUTO = "auto"  # tokenizer.model if there is one, else what tokenizer.json turns out to be
    LLAMA = "llama"  # the same, with Llama's settings for the space in front of a text
    GEMMA = "gemma"  # SentencePiece only, never with a space in front
    BYTE_LEVEL = "byte-level"  # byte-level BPE only


def maybe(*keys: str) -> Maybe:
    """Copy an optional config key; a plain string means a required one."""
    return Maybe(keys)


def to(*targets: str, op: Op) -> Rule:
    """Send a tensor to its targets through an op; a plain string means a plain copy."""
    return Rule(targets, op)


def no_tensors(config: Config) -> Mapping[str, Array]:  # noqa: ARG001 - the signature of `extra_tensors`
    """Make nothing that the checkpoint does not hold."""
    return {}


def all_blocks(config: Config) -> int:
    """Have experts in no block."""
    return int(config["num_hidden_layers"])


def no_remarks(config: Config) -> Iterable[str]:  # noqa: ARG001 - the signature of `remarks`
    """Have nothing to remark."""
    return ()


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One GGUF architecture, as data.

    Tables are layered: a later one overrides an earlier one, key by key.
    `metadata` maps a GGUF key, without its `<name>.` prefix, to where its value comes from.
    `tensors` maps an HF module path to a GGUF one; `None` drops it on purpose.
    `{b}` stands for the block index and `{e}` for the expert index: the only two holes.
    `required` lists the GGUF tensors that must be there, `{b}` in every block: of each tuple, at least one.
    `dense` and `sparse` do so for the first `dense_blocks` blocks and for those after them.
    `shapes` gives every GGUF tensor that llama.cpp loads, and the shape that it must have (outermost axis first).
    `drop_blocks_with` is the tensor by which a block after the last one is known to be none of the model's.
    `defaults` holds, for each HF architecture, the config keys that transformers fills in and released configs omit.
    `remarks` looks at a config that llama.cpp cannot follow exactly: it yields warnings, or raises CheckpointError.
    """

    name: str
    hf_architectures: tuple[str, ...]
    metadata: tuple[MetadataTable, ...]
    tensors: tuple[TensorTable, ...]
    required: tuple[tuple[str, ...], ...]
    shapes: tuple[ShapeTable, ...]
    dense: tuple[tuple[str, ...], ...] = ()
    sparse: tuple[tuple[str, ...], ...] = ()
    dense_blocks: Callable[[Config], int] = all_blocks
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra_tensors: Callable[[Config], Mapping[str, Array]] = no_tensors
    drop_blocks_with: str | None = None
    expert_count: str | None = None
    vocabulary: Vocabulary = Vocabulary.AUTO
    remarks: Callable[[Config], Iterable[str]] = no_remarks
