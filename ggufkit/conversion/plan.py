"""Decide everything about the output before reading a single weight.

Every output name, shape, type and byte offset comes from headers and config alone. Dry runs, the disk check, progress
bars and the memory bound are readings of this one plan.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from gguf import GGMLQuantizationType

from ggufkit.architectures import ArchSpec, Array, Op, Rule, Shape, TensorTable
from ggufkit.checkpoints import Checkpoint, Config, StoredTensor, check_values
from ggufkit.conversion.metadata import general_metadata, model_metadata, tokenizer
from ggufkit.errors import CheckpointError, UnmappedTensorError
from ggufkit.gguf_file.writer import FileLayout, TensorLayout, block_size, lay_out

T = TypeVar("T")

_BLOCK = re.compile(r"\.layers\.(\d+)\.")
_TARGET_BLOCK = re.compile(r"blk\.(\d+)\.")
_WEIGHTS = {"F32", "F16", "BF16", "F64"}


class OutputType(StrEnum):
    """The type of a converted model's matrices; vectors, norms and routers always stay F32."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    AUTO = "auto"  # the 16-bit type that the checkpoint's own matrices have

    @property
    def tensor_type(self) -> GGMLQuantizationType:
        """The ggml type of a matrix."""
        return GGMLQuantizationType[self.name]

    @property
    def file_type(self) -> int:
        """llama.cpp's number for a file of this type (`general.file_type`, llama.h: llama_ftype)."""
        return {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}[self.name]


@dataclass(frozen=True, slots=True)
class Step:
    """Read `sources`, run `op`, write `targets`."""

    sources: tuple[StoredTensor, ...]
    op: Op
    targets: tuple[TensorLayout, ...]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All that a conversion will do. `extra` holds tensors that are computed from the config (float32)."""

    checkpoint: Checkpoint
    spec: ArchSpec
    config: Config
    output_type: OutputType
    layout: FileLayout
    steps: tuple[Step, ...]
    extra: Mapping[str, Array]
    warnings: tuple[str, ...]

    @property
    def source_bytes(self) -> int:
        """The bytes that will be read."""
        return sum(source.size for step in self.steps for source in step.sources)


@dataclass(frozen=True, slots=True)
class _Group:
    """The tensors that one rule turns into one step: usually one, or one per expert."""

    pattern: str
    block: str
    suffix: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A step whose targets have no place in the file yet."""

    sources: tuple[StoredTensor, ...]
    op: Op
    targets: tuple[tuple[str, Shape], ...]


def make_plan(checkpoint: Checkpoint, spec: ArchSpec, output_type: OutputType) -> ConversionPlan:
    """Plan the conversion of a checkpoint by a spec.

    Raises:
        UnmappedTensorError: the checkpoint holds a tensor that the spec neither maps nor drops.
        CheckpointError: a tensor, a config key or a tokenizer file is missing or does not fit the others.
    """
    check_values(checkpoint.config.given)
    config = checkpoint.config.with_defaults(spec.defaults.get(checkpoint.config.architecture, {}))
    try:
        remarks = list(spec.remarks(config))
        drafts = plan_tensors(spec, config, checkpoint.tensors)
        extra = spec.extra_tensors(config)
        model = model_metadata(spec, config)
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.folder / 'config.json'} has no {error.args[0]!r}") from None
    if output_type is OutputType.AUTO:
        output_type = own_type(checkpoint)
    targets = [
        *((name, array.shape, GGMLQuantizationType.F32) for name, array in extra.items()),
        *((name, shape, _type(name, shape, output_type)) for draft in drafts for name, shape in draft.targets),
    ]
    metadata = {
        **general_metadata(checkpoint.folder, [(name, shape) for name, shape, _ in targets]),
        **model,
        "general.file_type": output_type.file_type,
        "general.quantization_version": 2,
        **tokenizer(checkpoint, spec, config),
    }
    _check_vocabulary(metadata, {name: shape for name, shape, _ in targets})
    layout = lay_out(spec.name, metadata, targets)
    places = {tensor.name: tensor for tensor in layout.tensors}
    steps = tuple(Step(draft.sources, draft.op, tuple(places[name] for name, _ in draft.targets)) for draft in drafts)
    return ConversionPlan(checkpoint, spec, config, output_type, layout, steps, extra, (*remarks, *_unread(config)))


def plan_tensors(spec: ArchSpec, config: Config, tensors: Mapping[str, StoredTensor]) -> list[_Draft]:
    """Match every checkpoint tensor to one rule; refuse to guess about any that is left, or is missing.

    The drafts come in the order in which their sources lie on the disk.
    """
    table = layered(spec.tensors)
    matchers = [(pattern, _matcher(pattern)) for pattern in table]
    layers = config["num_hidden_layers"]
    groups: dict[_Group, dict[int, StoredTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        block = _BLOCK.search(name) if spec.drop_blocks_with else None
        if block and int(block[1]) >= layers and str(spec.drop_blocks_with).format(b=block[1]) in tensors:
            continue
        group, expert = _match(name, matchers, spec)
        if table[group.pattern] is not None:
            groups[group][expert] = tensor
    drafts = [_draft(spec, table, group, members, config) for group, members in groups.items()]
    _check_targets(spec, config, drafts)
    return sorted(drafts, key=lambda draft: draft.sources[0].position)


def layered(tables: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Merge tables; a later one overrides an earlier one, key by key."""
    return {key: value for table in tables for key, value in table.items()}


def _matcher(pattern: str) -> re.Pattern[str]:
    body = re.escape(pattern).replace(r"\{b\}", r"(?P<b>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(body + r"(?P<suffix>(?:\.weight|\.bias)?)")


def _match(name: str, matchers: Sequence[tuple[str, re.Pattern[str]]], spec: ArchSpec) -> tuple[_Group, int]:
    for pattern, matcher in matchers:
        if found := matcher.fullmatch(name):
            holes = found.groupdict()
            return _Group(pattern, holes.get("b") or "", holes["suffix"]), int(holes.get("e") or 0)
    raise UnmappedTensorError(
        f"{spec.name}: no rule for tensor {name!r}", hint="ggufkit convert --converter llama.cpp may know it"
    )


def _draft(
    spec: ArchSpec, table: TensorTable, group: _Group, members: Mapping[int, StoredTensor], config: Config
) -> _Draft:
    entry = table[group.pattern]
    rule = entry if isinstance(entry, Rule) else Rule((str(entry),))
    if "{e}" in group.pattern:
        count = config[spec.expert_count] if spec.expert_count else max(members) + 1
        if missing := sorted(set(range(count)) - set(members)):
            raise CheckpointError(
                f"{group.pattern.format(b=group.block, e='*')}: no expert {missing} in the checkpoint"
            )
        if len(members) > count:
            raise CheckpointError(f"{group.pattern.format(b=group.block, e='*')}: more than {count} experts")
    sources = tuple(members[index] for index in sorted(members))
    for source in sources:
        if source.dtype not in _WEIGHTS:
            raise CheckpointError(
                f"tensor {source.name!r} is of type {source.dtype}, expected one of {', '.join(sorted(_WEIGHTS))}",
                hint="the checkpoint is quantized; try --converter llama.cpp",
            )
        if not source.size:
            raise CheckpointError(f"tensor {source.name!r} is empty: shape {source.shape}")
    try:
        shapes = rule.op.shapes([source.shape for source in sources], config)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {sources[0].name!r}: {error}") from None
    targets = tuple(target.format(b=group.block) + group.suffix for target in rule.targets)
    return _Draft(sources, rule.op, tuple(zip(targets, shapes, strict=True)))


def _check_targets(spec: ArchSpec, config: Config, drafts: Sequence[_Draft]) -> None:
    """Require what llama.cpp will look for, and refuse what it would not load, before a byte is written."""
    blocks, dense = config["num_hidden_layers"], min(spec.dense_blocks(config), config["num_hidden_layers"])
    targets = {name for draft in drafts for name, _ in draft.targets}
    for required, where in ((spec.required, (0, blocks)), (spec.dense, (0, dense)), (spec.sparse, (dense, blocks))):
        for alternatives in required:
            for block in range(*where) if "{b}" in alternatives[0] else [0]:
                names = [name.format(b=block) for name in alternatives]
                if targets.isdisjoint(names):
                    raise CheckpointError(
                        f"no tensor of the checkpoint becomes {' or '.join(names)}", hint="a shard may be missing"
                    )
    if "output.weight" not in targets and not config.get("tie_word_embeddings", False):
        raise CheckpointError("the checkpoint has no lm_head, and its config does not tie it to the embeddings")
    shapes = layered(spec.shapes)
    for draft in drafts:
        for name, shape in draft.targets:
            if (found := _TARGET_BLOCK.match(name)) and int(found[1]) >= blocks:
                raise CheckpointError(f"{name} is beyond config.json's {blocks} layers (num_hidden_layers)")
            shape_of = shapes.get(_TARGET_BLOCK.sub("blk.{b}.", name))
            source = draft.sources[0].name
            if shape_of is None:
                raise UnmappedTensorError(f"tensor {source!r} becomes {name}, which llama.cpp's {spec.name} has not")
            if shape != shape_of(config):
                raise CheckpointError(
                    f"tensor {source!r} becomes {name} of shape {shape}, but config.json says {shape_of(config)}"
                )


def _type(name: str, shape: Shape, output_type: OutputType) -> GGMLQuantizationType:
    """Choose a tensor's type by llama.cpp's rules (conversion/base.py: prepare_tensors)."""
    if len(shape) <= 1 or name.endswith(("_norm.weight", ".ffn_gate_inp.weight")) or not name.endswith(".weight"):
        return GGMLQuantizationType.F32
    wanted = output_type.tensor_type
    block, _ = block_size(wanted)
    return GGMLQuantizationType.F16 if shape[-1] % block else wanted


def own_type(checkpoint: Checkpoint) -> OutputType:
    """Tell what AUTO means, by the first matrix on disk: `torch_dtype` in the config is often wrong."""
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) >= 2:
            return OutputType.BF16 if tensor.dtype == "BF16" else OutputType.F16
    return OutputType.F16


def _check_vocabulary(metadata: Mapping[str, object], targets: Mapping[str, Shape]) -> None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    rows = targets["token_embd.weight"][0]
    if isinstance(tokens, list) and len(tokens) != rows:
        raise CheckpointError(f"the tokenizer has {len(tokens)} tokens, but the embedding has {rows} rows")


# Keys that change what the model computes. When nobody read one, and its value is not harmless, we would be guessing.
_MEANINGFUL = {
    "partial_rotary_factor": (1, 1.0),
    "rope_scaling": (),
    "rope_parameters": (),
    "sliding_window": (),
    "hidden_act": (),
    "final_logit_softcapping": (),
    "attn_logit_softcapping": (),
    "logit_scale": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "embedding_multiplier": (1, 1.0),
    "attention_multiplier": (),
    "logits_scaling": (1, 1.0),
    "layer_types": (),
}


def _unread(config: Config) -> list[str]:
    keys = [key for key in config.unread() if key in _MEANINGFUL and config[key] not in _MEANINGFUL[key]]
    return [f"config.json: nothing here uses {key} = {config[key]!r}" for key in keys]
