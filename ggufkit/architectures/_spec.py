"""What a model architecture is to ggufkit: names, metadata, tensors, and what to refuse. Types only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from ggufkit.architectures._ops import Array, Copy, Op
from ggufkit.architectures._sizes import Config, SizeTable


@dataclass(frozen=True, slots=True)
class Maybe:
    """The first of these config keys that is set; when none is, the GGUF key is left out."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a source tensor goes and what happens to it on the way.

    `after` names the size that is added to the block's index: a second stack's blocks come after those of the first.
    """

    targets: tuple[str, ...]
    op: Op = field(default_factory=Copy)
    after: str | None = None


MetadataTable: TypeAlias = Mapping[str, str | Maybe | Callable[[Config], Any]]
TensorTable: TypeAlias = Mapping[str | tuple[str, ...], str | Rule | None]


class Vocabulary(StrEnum):
    """Which tokenizer files an architecture's checkpoints bring, and the family's habits with them.

    The same values, with what each means, are in checkpoints/vocabulary/families.py.
    """

    AUTO = "auto"  # tokenizer.model if there is one, else what tokenizer.json turns out to be
    LLAMA = "llama"  # the same, with Llama's settings for the space in front of a text
    GEMMA = "gemma"  # SentencePiece only, never with a space in front
    GEMMA_1 = "gemma-1"
    GEMMA_4 = "gemma-4"
    BYTE_LEVEL = "byte-level"  # byte-level BPE only
    BERT = "bert"  # with segment embeddings: Bert, DistilBert, Roberta, XLM-Roberta
    MODERN_BERT = "modern-bert"
    EURO_BERT = "euro-bert"
    T5 = "t5"
    CHATGLM = "chatglm"  # ChatGLM, Glm
    GLM = "glm"  # Glm4Moe, Glm4MoeLite, Glm4v
    GLM_4 = "glm-4"  # Glm4
    ERNIE = "ernie"
    INTERNLM2 = "internlm2"
    MAMBA = "mamba"  # Mamba, FalconMamba
    MAMBA_2 = "mamba-2"
    NEMOTRON = "nemotron"
    PHI = "phi"  # Phi 1 and 2


def maybe(*keys: str) -> Maybe:
    """Copy an optional config key; a plain string means a required one."""
    return Maybe(keys)


def to(*targets: str, op: Op) -> Rule:
    """Send a tensor to its targets through an op; a plain string means a plain copy."""
    return Rule(targets, op)


def blocks(prefix: str, table: TensorTable, *, after: str | None = None, stack: str = "blk") -> TensorTable:
    """Write the table of one block: `prefix.{b}.` goes before every source, `blk.{b}.` before every target.

    `after` is that of the rules: the size that is added to the index. `stack` is `enc.blk` or `dec.blk` where a model
    has an encoder and a decoder.
    """

    def source(key: str) -> str:
        return f"{prefix}.{{b}}.{key}"

    def target(entry: str | Rule | None) -> str | Rule | None:
        if isinstance(entry, Rule):
            return Rule(tuple(f"{stack}.{{b}}.{name}" for name in entry.targets), entry.op, after)
        name = f"{stack}.{{b}}.{entry}"
        return None if entry is None else Rule((name,), after=after) if after else name

    return {
        source(key) if isinstance(key, str) else tuple(map(source, key)): target(entry) for key, entry in table.items()
    }


def no_tensors(config: Config) -> Mapping[str, Array]:  # noqa: ARG001 - the signature of `extra_tensors`
    """Make nothing that the checkpoint does not hold."""
    return {}


def alike(config: Config, block: int) -> str:  # noqa: ARG001 - the signature of `kinds`
    """Have all blocks hold the same tensors."""
    return ""


def no_remarks(config: Config) -> Iterable[str]:  # noqa: ARG001 - the signature of `remarks`
    """Have nothing to remark."""
    return ()


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One GGUF architecture, as data. Tables are layered: a later one overrides an earlier one, key by key.

    Names and numbers:
        `name` is GGUF's name of the architecture, `hf_architectures` are config.json's names for it.
        `metadata` maps a GGUF key, without its `<name>.` prefix, to where its value comes from: a config key or size
        that must be there, `maybe(...)`, or a function of the config; None leaves the key out.
        `defaults` holds, for each `model_type`, what transformers takes for config keys that are absent.
        `spellings` maps a config key to other names that this family's configs have for it.
        `sizes` overrides or adds to SIZES, by which shapes and ops are worked out.
        `ropes` are the rope types that llama.cpp follows here, beside the default; "partial" allows a rotary part of a
        head, "per-layer" settings for each type of layer, "betas" other ends of YaRN's ramp than 32 and 1.

    Tensors:
        `tensors` maps an HF module path to a GGUF one; `None` drops it on purpose. `{b}` stands for the block index
        and `{e}` for the expert index. A tuple of paths feeds one op. Every target must come out, in every block of
        its kind, unless it ends in "?". Prefixes that only say where the model sits (`model.`, `language_model.`,
        `transformer.`...) do not matter.
        `biases` names the targets that also have a bias: required, or optional with "?". Others are refused.
        `either` lists optional targets of which each block needs one.
        `kinds` says what a block is, in words: "dense" or "sparse", "attention" or "recurrent"; a target of another
        kind (see `_tensors.KINDS`, overridden by `kind_of`) must then be absent.
        `copies` maps a source path to another of which it is but a copy: where both are stored, one of them is taken.
        `shapes` overrides or adds to `_tensors.SHAPES`; `types` keeps targets in a type of their own.
        `extra_tensors` makes tensors from the config alone (float32).
        `tensor_metadata` maps a whole GGUF key to an HF tensor of one number in each block: they become a list.
        `predicts` is the config key that counts the blocks after the model's own that predict further tokens, where
        llama.cpp loads them; without it they are left out.
        `drops_tied_output` leaves out an output that a checkpoint holds though its config ties it to the embeddings.
        `needs_output` has a tied embedding written twice: llama.cpp wants an output of its own here.

    `vocabulary` chooses the tokenizer's reader.
    `remarks` looks at a config that llama.cpp cannot follow exactly: it yields warnings, or raises CheckpointError.
    """

    name: str
    hf_architectures: tuple[str, ...]
    metadata: tuple[MetadataTable, ...]
    tensors: tuple[TensorTable, ...]
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: SizeTable = field(default_factory=dict)
    ropes: tuple[str, ...] = ("linear", "yarn")
    biases: str = ""
    either: tuple[tuple[str, ...], ...] = ()
    kinds: Callable[[Config, int], str] = alike
    kind_of: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    extra_tensors: Callable[[Config], Mapping[str, Array]] = no_tensors
    tensor_metadata: Mapping[str, str] = field(default_factory=dict)
    predicts: str | None = None
    drops_tied_output: bool = False
    needs_output: bool = False
    vocabulary: Vocabulary = Vocabulary.AUTO
    remarks: Callable[[Config], Iterable[str]] = no_remarks
