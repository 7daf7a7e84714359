"""Decide everything about the output before reading a single weight.

Every output name, shape, type and byte offset comes from headers and config alone. Dry runs, the disk check, progress
bars and the memory bound are readings of this one plan.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gguf import GGMLQuantizationType

from ggufkit.architectures import (
    ArchSpec,
    Array,
    Op,
    Shape,
    check_rope,
    derived_sizes,
    experts_with_inputs_first,
)
from ggufkit.checkpoints import Checkpoint, Config, DequantizedTensor, StoredTensor, check_values
from ggufkit.conversion.description import general_metadata, provenance
from ggufkit.conversion.kept import Keep, Kept, kept
from ggufkit.conversion.metadata import model_metadata
from ggufkit.conversion.metadata_edits import MetadataEdits
from ggufkit.conversion.numbers import read_numbers
from ggufkit.conversion.prediction import find_prediction
from ggufkit.conversion.tensors import Draft, match_tensors, tensor_type
from ggufkit.conversion.vocabulary import TokenizerOptions, vocabulary_metadata
from ggufkit.errors import CheckpointError
from ggufkit.gguf_file.writer import FileLayout, TensorLayout, lay_out

_MOST = 100_000
_LARGEST_FLOAT = 3.4028235677973366e38  # half a step above the largest float32, which would be rounded up


class OutputType(StrEnum):
    """The type of a converted model's matrices; vectors, norms and routers always stay F32."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    AUTO = "auto"  # the 16-bit type that the checkpoint's own matrices have
    SOURCE = "source"  # the same, but weights that others quantized keep their integers where a ggml type holds them

    @property
    def tensor_type(self) -> GGMLQuantizationType:
        """The ggml type of a matrix; AUTO and SOURCE have none before a checkpoint is known."""
        return GGMLQuantizationType[self.name]

    @property
    def keeps(self) -> Keep:
        """Which weights stay in the blocks of their source."""
        return {"SOURCE": Keep.ALL, "F32": Keep.NONE}.get(self.name, Keep.FLOATS)


# llama.cpp's numbers for a file whose matrices are mostly of a type (`general.file_type`, llama.h: llama_ftype).
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32, "TQ2_0": 37, "MXFP4": 38, "NVFP4": 39}


@dataclass(frozen=True, slots=True)
class Step:
    """Read `sources`, run `op`, write `targets`; with `kept`, from the blocks of the sources."""

    sources: tuple[StoredTensor, ...]
    op: Op
    targets: tuple[TensorLayout, ...]
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All that a conversion will do. `extra` holds tensors that are not streamed (float32).

    Those are computed from the config, or lie beside weights that were kept.
    """

    checkpoint: Checkpoint
    spec: ArchSpec
    config: Config
    output_type: OutputType
    layout: FileLayout
    steps: tuple[Step, ...]
    extra: Mapping[str, Array]
    warnings: tuple[str, ...]

    @property
    def kept(self) -> dict[str, int]:
        """Count the source's tensors that keep their integers, by the type that holds them."""
        return dict(Counter(step.kept.type.name for step in self.steps if step.kept for _ in step.sources))

    @property
    def source_bytes(self) -> int:
        """The bytes that will be read."""
        return sum(source.size for step in self.steps for source in step.sources)


def make_plan(
    checkpoint: Checkpoint,
    spec: ArchSpec,
    output_type: OutputType,
    *,
    mtp: bool = True,
    description: Mapping[str, Any] | None = None,
    edits: MetadataEdits | None = None,
    tokenizer: TokenizerOptions | None = None,
    keep: Keep = Keep.NONE,
) -> ConversionPlan:
    """Plan the conversion of a checkpoint by a spec.

    `keep` tells which weights that others quantized stay in their blocks.

    With `mtp`, blocks of multi-token prediction are kept where llama.cpp loads them.
    `description` takes the place of what the folder says about the model's origin and its tokenizer; `edits` are laid
    over all metadata. `tokenizer` tells where to read the tokenizer, if not in the checkpoint's folder.

    Raises:
        UsageError: an edit is not possible.
        UnmappedTensorError: the checkpoint holds a tensor that the spec neither maps nor drops.
        CheckpointError: a tensor, a config key or a tokenizer file is missing or does not fit the others.
    """
    check_values(checkpoint.config.given)
    config = complete(checkpoint.config, spec)
    try:
        _check_counts(config)
        rope_remarks = check_rope(config, spec.ropes)
        prediction = find_prediction(spec, config, checkpoint.tensors, wanted=mtp)
        shapes = {name: tensor.shape for name, tensor in prediction.tensors.items()}
        turned = experts_with_inputs_first(config, shapes)
        config = complete(checkpoint.config, spec, predicted=prediction.count, inputs_first=turned)
        remarks = [*rope_remarks, *spec.remarks(config), *prediction.remarks]
        numbers, own = read_numbers(spec, config, prediction.tensors)
        drafts, dropped = match_tensors(spec, config, own)
        extra = spec.extra_tensors(config)
        model = model_metadata(spec, config)
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.folder / 'config.json'} has no {error.args[0]!r}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        # specs compute with what strangers wrote: a size may be a text, a list too short
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'} holds a value of the wrong kind: {error}"
        ) from error
    matrices = own_type(checkpoint) if output_type in (OutputType.AUTO, OutputType.SOURCE) else output_type
    if output_type is OutputType.AUTO:
        output_type = matrices
    blocks = [kept(draft, config, spec, keep) for draft in drafts]
    extra = {**extra, **_beside(drafts, blocks)}
    targets = [
        *((name, array.shape, GGMLQuantizationType.F32) for name, array in extra.items()),
        *(
            (name, shape, found.type if found else tensor_type(spec, name, shape, matrices.tensor_type))
            for draft, found in zip(drafts, blocks, strict=True)
            for name, shape in draft.targets
        ),
    ]
    file_type = _FILE_TYPES[_main_type(blocks, matrices)]
    metadata = {**model, **numbers, "general.file_type": file_type, "general.quantization_version": 2}
    if description is not None:
        metadata |= description
    else:
        named = [(name, shape) for name, shape, _ in targets]
        general = general_metadata(checkpoint.folder, named, warn=remarks.append)
        shapes = dict(named)
        vocabulary, doubts = vocabulary_metadata(
            checkpoint.folder,
            config,
            spec.vocabulary.value,
            rows=shapes["token_embd.weight"][0] if "token_embd.weight" in shapes else None,
            options=tokenizer,
        )
        remarks += doubts
        metadata = {**general, **metadata, **vocabulary, **provenance(checkpoint.folder)}
        _check_vocabulary(metadata, {name: shape for name, shape, _ in targets})
    _check_room(checkpoint, metadata)
    edited = edits.applied_to(metadata, spec.name) if edits else metadata
    try:
        layout = lay_out(spec.name, edited, targets)
    except ValueError as error:  # two tensors of one name, where a strange value turned a step of the spec on or off
        raise CheckpointError(f"{checkpoint.folder} cannot become a GGUF file: {error}") from error
    places = {tensor.name: tensor for tensor in layout.tensors}
    steps = tuple(
        Step(draft.sources, draft.op, tuple(places[name] for name, _ in draft.targets), found)
        for draft, found in zip(drafts, blocks, strict=True)
    )
    said = checkpoint.quantization.remarks if checkpoint.quantization else ()
    warnings = (*said, *remarks, *dropped, *_unread(config))
    return ConversionPlan(checkpoint, spec, config, output_type, layout, steps, extra, warnings)


def _beside(drafts: Sequence[Draft], blocks: Sequence[Kept | None]) -> dict[str, Array]:
    """Give the tensors that lie beside kept weights, by their names in the file; those of ones alone say nothing."""
    return {
        draft.targets[0][0].removesuffix("weight") + end: numbers
        for draft, found in zip(drafts, blocks, strict=True)
        if found
        for end, numbers in found.extra().items()
        if (numbers != 1).any()
    }


def _main_type(blocks: Sequence[Kept | None], matrices: OutputType) -> str:
    """Name the type that most kept weights have; that of plain matrices where none is kept."""
    kinds = Counter(found.type.name for found in blocks if found)
    return kinds.most_common(1)[0][0] if kinds else matrices.name


def _check_room(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> None:
    """Refuse numbers that a GGUF file has no room for: it holds them in 32 bits, where JSON knows no bounds."""
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            continue  # lists as long as the vocabulary, made by us
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and _LARGEST_FLOAT <= abs(number) < math.inf:
                raise CheckpointError(f"{checkpoint.folder}: {key} would be {number:g}, more than float32 can hold")
            if isinstance(number, int) and not -(1 << 31) <= number < 1 << 32:
                raise CheckpointError(f"{checkpoint.folder}: {key} would be {number}, which has no room in 32 bits")


def _check_counts(config: Config) -> None:
    """Refuse counts that no model has: plans have an entry for each block and each expert."""
    for name in ("layers", "experts"):
        count = config.get(name)
        if count is not None and (not isinstance(count, int) or count > _MOST):
            raise CheckpointError(f"config.json: {count!r} {name}, expected at most {_MOST}")


def complete(config: Config, spec: ArchSpec, *, predicted: int = 0, inputs_first: bool = False) -> Config:
    """Add to a config what transformers takes for absent keys, and the sizes that the spec works out of it.

    `predicted` counts the blocks of multi-token prediction; `inputs_first` tells how stacked experts are stored.
    """
    sizes = {**derived_sizes(spec), "predicted": lambda _: predicted, "inputs_first": lambda _: inputs_first}
    return config.completed(_defaults(config, spec), spec.spellings, sizes)


def _defaults(config: Config, spec: ArchSpec) -> Mapping[str, object]:
    """Find the defaults of a config's `model_type`; by the name of its class where it has none that we know."""
    own = config.model_type or ""
    for kind in (own, f"{own}_text", own.removesuffix("_text")):
        if kind in spec.defaults:
            return spec.defaults[kind]
    name = config.architecture.lower().replace("_", "")
    known = [kind for kind in spec.defaults if name.startswith(kind.replace("_", ""))]
    return spec.defaults[max(known, key=len)] if known else {}


def own_type(checkpoint: Checkpoint) -> OutputType:
    """Tell what AUTO means, by the first matrix on disk: `torch_dtype` in the config is often wrong.

    Of weights that others quantized, the embeddings are mostly left as they were; else a plain vector tells.
    """
    plain = [tensor for tensor in checkpoint.tensors.values() if not isinstance(tensor, DequantizedTensor)]
    for tensor in sorted(plain, key=lambda tensor: len(tensor.shape) < 2):
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
