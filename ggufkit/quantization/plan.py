"""Everything about a quantization before it begins: each tensor's new type, the exact size, and what forbids it.

The plan is llama-quantize's own: its `--dry-run` reads the header of the source and takes milliseconds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError, UsageError, VerificationError
from ggufkit.gguf_file.reader import Entry, GgufHeader, TensorInfo, ValueType, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import quantize as tool
from ggufkit.quantization import imatrix
from ggufkit.quantization.types import QuantizationType

# llama-quantize pads with this, whatever the source's alignment.
_ALIGNMENT = 32
# Below these it refuses to work without an importance matrix (src/llama-quant.cpp, tensor_requires_imatrix).
_NEED_IMATRIX = {
    TensorType.IQ3_XXS,
    TensorType.IQ2_XXS,
    TensorType.IQ2_XS,
    TensorType.IQ2_S,
    TensorType.IQ1_M,
    TensorType.IQ1_S,
}
_Q5_K_OUTPUT = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}
_EMBEDDINGS = {"token_embd.weight", "per_layer_token_embd.weight"}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize, apart from the type.

    `tensor_types` are pairs of a regular expression, searched for in the tensors' names, and the type for those that
    match; the first match counts. They have no effect for the types F16, BF16 and F32.
    """

    threads: int | None = None
    imatrix: Path | None = None
    allow_requantize: bool = False
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: TensorType | None = None
    token_embedding_type: TensorType | None = None
    tensor_types: tuple[tuple[str, TensorType], ...] = ()


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that gets another type than the recipe wants, because its rows do not divide into that type's blocks."""

    tensor: str
    columns: int
    wanted: TensorType
    got: TensorType


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor, before and after. `shape` has GGUF's order: the contiguous axis first."""

    name: str
    shape: tuple[int, ...]
    was: TensorType
    to: TensorType
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What quantizing will do. `tensors` are in the order of the output; sizes in bytes are those of whole files."""

    source: Path
    sources: tuple[Path, ...]  # more than one for a split model
    type: QuantizationType
    options: QuantizeOptions
    tensors: tuple[PlannedTensor, ...]
    fallbacks: tuple[Fallback, ...]
    without_importance: tuple[str, ...]  # tensors that the importance matrix does not cover
    bytes_before: int
    bytes_after: int
    overrides: tuple[tuple[str, str], ...]

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(_elements(tensor.shape) for tensor in self.tensors)

    @property
    def bits_per_weight_before(self) -> float:
        """Bits in all tensors of the source per weight."""
        return 8 * sum(tensor.bytes_before for tensor in self.tensors) / max(1, self.elements)

    @property
    def bits_per_weight_after(self) -> float:
        """Bits in all tensors of the output per weight."""
        return 8 * sum(tensor.bytes_after for tensor in self.tensors) / max(1, self.elements)

    @property
    def tensor_types(self) -> Mapping[str, int]:
        """How many tensors of the output have each type, the most frequent first."""
        return dict(Counter(tensor.to.name for tensor in self.tensors).most_common())

    def tool_options(self, output: Path | None) -> tool.Options:
        """Spell the plan for llama-quantize."""
        return _tool_options(self.source, output, self.type, self.options, self.overrides)


@dataclass(frozen=True, slots=True)
class Stand:
    """What `plan` shows llama-quantize in place of the real files, when many types are planned at once.

    `source` holds the same tensors and sizes as the real one, but no weights and no vocabulary. `imatrix` stands for
    an importance matrix that is still to be made; with it, a type that needs one is not refused.
    """

    source: Path
    imatrix: Path | None = None


def plan(
    source: Path,
    kind: QuantizationType,
    options: QuantizeOptions | None = None,
    *,
    headers: Sequence[GgufHeader] | None = None,
    stand: Stand | None = None,
) -> QuantizationPlan:
    """Find out what quantizing `source` to `kind` would do. Reads headers only, unless they are given.

    Raises:
        GgufFileError: the source is malformed, or llama.cpp does not accept it.
        UsageError: it is quantized already, or the type needs an importance matrix.
        InputError: the importance matrix cannot be used.
        LlamaCppError: llama-quantize died.
    """
    options = options or QuantizeOptions()
    headers = headers or read_model(source)
    _refuse_idle_patterns(headers, kind, options)
    covered = imatrix.coverage(options.imatrix) if options.imatrix else {}
    aligned = all(header.alignment == _ALIGNMENT for header in headers)
    overrides = () if aligned else (("general.alignment", f"int:{_ALIGNMENT}"),)
    asked = _tool_options(source, None, kind, options, overrides)
    if stand:
        asked = replace(asked, source=stand.source, imatrix=asked.imatrix or stand.imatrix)
    report = tool.quantize(asked)
    if report.failure:
        if "imatrix" in report.failure:
            raise InputError(f"llama.cpp does not accept the importance matrix {options.imatrix}: {report.failure}")
        if "no tensor type fallback" in report.failure:
            raise UsageError(f"{kind.name} does not fit the tensors of this model: {report.failure}")
        raise GgufFileError(f"llama.cpp does not accept {source}: {report.failure}")
    tensors = _tensors(source, headers, report)
    _refuse_requantizing(source, tensors, options)
    needing = [tensor for tensor in tensors if _needs_imatrix(tensor, kind)]
    if asked.imatrix is None and (needing or report.needs_imatrix):
        raise UsageError(
            f"{kind.name} needs an importance matrix for this model ({len(needing)} tensors would be garbage without)",
            hint="give one with --imatrix FILE, or take a type that needs none, such as Q2_K or Q3_K_M",
        )
    uncovered = _uncovered(options.imatrix, covered, tensors, needing)
    return QuantizationPlan(
        source=source,
        sources=tuple(header.path for header in headers),
        type=kind,
        options=options,
        tensors=tensors,
        fallbacks=_fallbacks(kind, options, tensors, report),
        without_importance=uncovered,
        bytes_before=sum(header.file_size for header in headers),
        bytes_after=_file_size(headers[0], tensors, options, report),
        overrides=overrides,
    )


def _tool_options(
    source: Path,
    output: Path | None,
    kind: QuantizationType,
    options: QuantizeOptions,
    overrides: tuple[tuple[str, str], ...],
) -> tool.Options:
    return tool.Options(
        source=source,
        output=output,
        type=kind.name,
        threads=options.threads or cpu.usable_cores(),
        imatrix=options.imatrix,
        allow_requantize=options.allow_requantize,
        pure=options.pure,
        leave_output_tensor=options.leave_output_tensor,
        output_tensor_type=options.output_tensor_type.name if options.output_tensor_type is not None else None,
        token_embedding_type=options.token_embedding_type.name if options.token_embedding_type is not None else None,
        tensor_types=tuple((pattern, tensor_type.name) for pattern, tensor_type in options.tensor_types),
        overrides=overrides,
    )


def read_model(source: Path) -> list[GgufHeader]:
    """Read the header of a model, or those of all parts of a split one. Raises GgufFileError."""
    first = read_header(source)
    count = first.metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        if "general.architecture" not in first.metadata:
            raise GgufFileError(f"{source} is not a model: it has no key 'general.architecture'")
        return [first]
    found = _SHARD.search(source.name)
    if not found or found[1] != "00001" or int(found[2]) != count:
        raise GgufFileError(
            f"{source} is a part of a split model of {count} files, and not its first",
            hint=f"name the first part, which ends in -00001-of-{count:05d}.gguf",
        )
    names = [_SHARD.sub(f"-{number:05d}-of-{count:05d}", source.name) for number in range(2, count + 1)]
    return [first, *(read_header(source.with_name(name)) for name in names)]


def _tensors(source: Path, headers: Iterable[GgufHeader], report: tool.Report) -> tuple[PlannedTensor, ...]:
    """Join what the headers say with what llama-quantize would do; they must speak of the same tensors."""
    infos = {info.name: info for header in headers for info in header.tensors}
    planned = []
    for line in report.tensors:
        info = infos.pop(line.name, None)
        if info is None or stripped(line.shape) != stripped(info.shape):
            raise VerificationError(f"{source}: llama-quantize speaks of a tensor that is not there: {line.name!r}")
        to = _type_named(line.to) if line.to else info.type
        if info.shape[0] % to.block_size if info.shape else to.block_size > 1:
            # Types named for one tensor are obeyed without a look at its shape, and the program aborts midway.
            raise UsageError(
                f"tensor {info.name!r} cannot be {to.name}: its rows of {info.shape[0] if info.shape else 1} weights"
                f" do not divide into blocks of {to.block_size}",
                hint="name a type with smaller blocks for it, such as Q8_0",
            )
        planned.append(PlannedTensor(info.name, info.shape, info.type, to, info.size, _bytes(info, to)))
    if infos:
        raise VerificationError(
            f"{source}: llama-quantize would leave out {len(infos)} tensors, as {next(iter(infos))!r}"
        )
    return tuple(planned)


def _refuse_idle_patterns(headers: Iterable[GgufHeader], kind: QuantizationType, options: QuantizeOptions) -> None:
    """Refuse tensor types that would silently have no effect. llama-quantize puts patterns into lower case."""
    names = [info.name for header in headers for info in header.tensors]
    for pattern, tensor_type in options.tensor_types:
        if not kind.base.is_quantized:
            raise UsageError(f"the tensor type {pattern}={tensor_type.name} has no effect together with {kind.name}")
        try:
            found = any(re.search(pattern.lower(), name) for name in names)
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise UsageError(f"no tensor's name matches {pattern!r}; the first is {names[0] if names else 'missing'!r}")


def _refuse_requantizing(source: Path, tensors: tuple[PlannedTensor, ...], options: QuantizeOptions) -> None:
    lossy = Counter(tensor.was.name for tensor in tensors if tensor.was.is_quantized and tensor.to is not tensor.was)
    if lossy and not options.allow_requantize:
        kinds = ", ".join(f"{count} {name}" for name, count in lossy.most_common())
        raise UsageError(
            f"{source} is quantized already ({kinds} tensors); quantizing it again loses more than from F16",
            hint="start from the F16 or BF16 file, or add --allow-requantize",
        )


def _needs_imatrix(tensor: PlannedTensor, kind: QuantizationType) -> bool:
    if tensor.to is tensor.was or tensor.name in _EMBEDDINGS or tensor.name == "output.weight":
        return False
    return tensor.to in _NEED_IMATRIX or (tensor.to is TensorType.Q2_K and kind.name == "Q2_K_S")


def _fallbacks(
    kind: QuantizationType, options: QuantizeOptions, tensors: tuple[PlannedTensor, ...], report: tool.Report
) -> tuple[Fallback, ...]:
    """List what llama-quantize reports, and the one that it does not.

    Where the recipe's blocks do not divide the rows of the output layer (or of the embeddings that stand for it), it
    gets Q8_0 instead of Q6_K or Q5_K without a word (src/llama-quant.cpp, llama_tensor_get_type_impl).
    """
    named = {line.name: line for line in report.fallbacks}
    found = [
        Fallback(line.name, line.columns, _type_named(line.wanted), _type_named(line.got)) for line in named.values()
    ]
    by_name = {tensor.name: tensor for tensor in tensors}
    last = by_name.get("output.weight") or by_name.get("token_embd.weight")
    if last is None or last.name in named or options.pure or last.was is TensorType.Q8_0:
        return tuple(found)
    chosen = [options.output_tensor_type, *(t for p, t in options.tensor_types if re.search(p.lower(), last.name))]
    if any(tensor_type is not None for tensor_type in chosen) or kind.base is TensorType.MXFP4:
        return tuple(found)
    if last.to is TensorType.Q8_0 and kind.base.block_size > 1 and last.shape[0] % kind.base.block_size:
        wanted = TensorType.Q5_K if kind.name in _Q5_K_OUTPUT else TensorType.Q6_K
        found.insert(0, Fallback(last.name, last.shape[0], wanted, last.to))
    return tuple(found)


def _uncovered(
    path: Path | None,
    covered: Mapping[str, int],
    tensors: tuple[PlannedTensor, ...],
    needing: list[PlannedTensor],
) -> tuple[str, ...]:
    """Name the tensors without importance values; refuse gaps and misfits on which llama-quantize gives up midway."""
    if path is None:
        return ()
    quantized = [tensor for tensor in tensors if tensor.to is not tensor.was and tensor.to.is_quantized]
    for tensor in quantized:
        values, wanted = covered.get(tensor.name), _elements((tensor.shape[0], *tensor.shape[2:3]))
        if values not in {None, wanted} and tensor.name not in _EMBEDDINGS:
            raise InputError(
                f"{path} is not for this model: it has {values:,} values for {tensor.name!r}, expected {wanted:,}"
            )
    missing = [tensor.name for tensor in needing if tensor.name not in covered]
    if missing:
        raise InputError(
            f"{path} has nothing for {len(missing)} tensors that need it, as {missing[0]!r}",
            hint="make it with more text, so that every expert is used, or take a larger type",
        )
    return tuple(tensor.name for tensor in quantized if tensor.name not in covered)


def _file_size(
    header: GgufHeader, tensors: tuple[PlannedTensor, ...], options: QuantizeOptions, report: tool.Report
) -> int:
    """Compute the output's size to the byte: its metadata are the source's, less the split keys, plus a few."""
    values = {
        key: _value_bytes(entry)
        for key, entry in header.metadata.entries.items()
        if key not in {"split.no", "split.count", "split.tensors.count"}
    }
    values |= {"general.quantization_version": 4, "general.file_type": 4}
    if options.imatrix:
        values |= {"quantize.imatrix.file": 8 + len(str(options.imatrix).encode()), "quantize.imatrix.entries_count": 4}
        if report.imatrix_dataset is not None:
            values["quantize.imatrix.dataset"] = 8 + min(imatrix.LONGEST_PATH, len(report.imatrix_dataset.encode()))
        if report.imatrix_chunks > 0:
            values["quantize.imatrix.chunks_count"] = 4
    size = 24 + sum(8 + len(key.encode()) + 4 + value for key, value in values.items())
    size += sum(8 + len(tensor.name.encode()) + 4 + 8 * len(stripped(tensor.shape)) + 4 + 8 for tensor in tensors)
    return _padded(size) + sum(_padded(tensor.bytes_after) for tensor in tensors)


def _value_bytes(entry: Entry) -> int:
    return entry.size + (12 if entry.kind is ValueType.ARRAY else 0)


def stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the closing extents of 1, as ggml does when it writes a shape; at least one extent stays."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)


def _type_named(name: str) -> TensorType:
    try:
        return TensorType[name.upper()]
    except KeyError:
        raise VerificationError(f"llama-quantize speaks of an unknown tensor type: {name!r}") from None


def _bytes(info: TensorInfo, to: TensorType) -> int:
    return info.elements // to.block_size * to.block_bytes


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
