"""Everything about a quantization before it begins: each tensor's new type, the exact size, and what forbids it.

The plan is llama-quantize's own: its `--dry-run` reads the header of the source and takes milliseconds.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError, UsageError, VerificationError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import quantize as tool
from ggufkit.quantization import imatrix
from ggufkit.quantization.keep import tensors_to_keep
from ggufkit.quantization.matrix_fit import Measured, chosen, needs_imatrix, uncovered
from ggufkit.quantization.options import QuantizeOptions, check_options
from ggufkit.quantization.output_size import ALIGNMENT, file_sizes, string_bytes
from ggufkit.quantization.overrides import Patterns, Shift, check_keep, decided, pinned, shifts
from ggufkit.quantization.source import doubts_about_type, kept_tensors, read_model
from ggufkit.quantization.types import QuantizationType

__all__ = [
    "Fallback",
    "PlannedTensor",
    "QuantizationPlan",
    "QuantizeOptions",
    "Stand",
    "plan",
    "read_model",
    "stripped",
]

_Q5_K_OUTPUT = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that gets another type than the recipe wants, because its rows do not divide into that type's blocks."""

    tensor: str
    columns: int
    wanted: TensorType
    got: TensorType


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor, before and after. `shape` has GGUF's order: the contiguous axis first.

    `part` counts the files of a model that stays split. `source_name` differs where layers before it are pruned.
    """

    name: str
    shape: tuple[int, ...]
    was: TensorType
    to: TensorType
    bytes_before: int
    bytes_after: int
    part: int = 0
    source_name: str = ""


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What quantizing will do. `tensors` are in the order of the output; sizes in bytes are those of whole files.

    `shifted` are tensors that changed because a neighbour was given a type; `notes` are for people.
    `patterns` and `overrides` are what llama-quantize is told, `overrides` with those that we add.
    """

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
    part_bytes: tuple[int, ...] = ()
    patterns: Patterns = ()
    shifted: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = field(default=())

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

    @property
    def needs_imatrix(self) -> bool:
        """Whether llama-quantize refuses to do this without an importance matrix."""
        return any(_needs_imatrix(tensor, self.type) for tensor in self.tensors)

    def tool_options(self, output: Path | None) -> tool.Options:
        """Spell the plan for llama-quantize."""
        return _tool_options(self.source, output, self.type, self.options, self.patterns, self.overrides)


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
        UsageError: it is quantized already, the type needs an importance matrix, or an option would have no effect.
        InputError: the importance matrix cannot be used.
        LlamaCppError: llama-quantize died.
    """
    options = options or QuantizeOptions()
    headers = headers or read_model(source)
    check_options(options)
    if options.keep_split and len(headers) < 2:
        raise UsageError(f"--keep-split: {source} is one file", hint="leave it out")
    kept = list(kept_tensors(headers, options.prune_layers))
    doubts = doubts_about_type(headers, allow_requantize=options.allow_requantize)
    covered = chosen(options)
    asking = _Asking(source, kind, options, kept, _overrides(headers, options), stand)
    types = _choose_types(asking, str(headers[0].metadata["general.architecture"]))
    report, tensors = types.report, types.tensors
    _refuse_requantizing(source, tensors, options)
    quantized = [tensor for tensor in tensors if tensor.to is not tensor.was and tensor.to.is_quantized]
    needing = {t.name for t in quantized if needs_imatrix(t.name, t.was, t.to, kind.name)}
    if asking.imatrix is None and (needing or report.needs_imatrix):
        raise UsageError(
            f"{kind.name} needs an importance matrix for this model ({len(needing)} tensors would be garbage without)",
            hint=f"make one: ggufkit imatrix {source} -f TEXT -o imatrix.gguf; then --imatrix imatrix.gguf."
            " Or take a type that needs none, such as Q2_K or Q3_K_M",
        )
    measured = [Measured(t.name, _elements((t.shape[0], *t.shape[2:3])), t.name in needing) for t in quantized]
    source_names = [info.name for header in headers for info in header.tensors]
    sizes = _sizes(headers[0], tensors, asking, covered, report)
    return QuantizationPlan(
        source=source,
        sources=tuple(header.path for header in headers),
        type=kind,
        options=options,
        tensors=tensors,
        fallbacks=_fallbacks(kind, options, tensors, report),
        without_importance=uncovered(options.imatrix, covered, source_names, measured, options.prune_layers)
        if options.imatrix
        else (),
        bytes_before=sum(header.file_size for header in headers),
        bytes_after=sum(sizes),
        part_bytes=sizes,
        overrides=asking.overrides,
        patterns=types.patterns,
        shifted=types.shifted,
        notes=(*doubts, *types.notes),
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    """What the dry runs of one plan have in common."""

    source: Path
    kind: QuantizationType
    options: QuantizeOptions
    kept: Sequence[tuple[str, TensorInfo, int]]
    overrides: tuple[tuple[str, str], ...]
    stand: Stand | None

    @property
    def imatrix(self) -> Path | None:
        return self.options.imatrix or (self.stand.imatrix if self.stand else None)

    def dry_run(self, patterns: Patterns) -> tuple[tool.Report, tuple[PlannedTensor, ...]]:
        asked = _tool_options(self.source, None, self.kind, self.options, patterns, self.overrides)
        report = tool.quantize(
            replace(asked, source=self.stand.source if self.stand else self.source, imatrix=self.imatrix)
        )
        if report.failure:
            _refuse(report.failure, self)
        return report, _tensors(self, report)


@dataclass(frozen=True, slots=True)
class _Types:
    """The answer to which type each tensor gets."""

    report: tool.Report
    tensors: tuple[PlannedTensor, ...]
    patterns: Patterns = ()
    shifted: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = ()


def _choose_types(asking: _Asking, architecture: str) -> _Types:
    """Ask llama-quantize; where single tensors are given types, ask what it would have done without."""
    options, names = asking.options, [name for name, _, _ in asking.kept]
    named = decided(names, asking.kind, options)
    if not named and not options.keep:
        return _Types(*asking.dry_run(()))
    report, tensors = asking.dry_run(())
    recipe = {tensor.name: tensor.to for tensor in tensors}
    if options.pin or not named:
        wanted, shifted = {**recipe, **{name: kept for name, kept in named.items() if name in recipe}}, ()
        patterns: Patterns = ()
    else:
        patterns = options.tensor_types
        report, tensors = asking.dry_run(patterns)
        wanted = {tensor.name: tensor.to for tensor in tensors}
        shifted = shifts(recipe, wanted, named)
    notes: tuple[str, ...] = ()
    if options.keep or options.pin:
        words = tensors_to_keep(options.keep, names, architecture, options.modules)
        own = {tensor.name: tensor.was for tensor in tensors}
        kept = {name: own[name] if kept is None else kept for name, kept in words.types.items()}
        check_keep(kept, asking.kind, options)
        wanted.update(kept)
        patterns = pinned(wanted)
        before = report
        report, tensors = asking.dry_run(patterns)
        untouched = _check_pins(tensors, wanted, {*named, *kept})
        notes = (*words.notes, *untouched)
        report = replace(report, fallbacks=(*_still(before.fallbacks, kept), *report.fallbacks))
    return _Types(report, tensors, patterns, shifted, notes)


def _still(fallbacks: Sequence[tool.FallbackLine], kept: Mapping[str, TensorType]) -> Sequence[tool.FallbackLine]:
    """Return the recipe's own fallbacks, which are not told again when each tensor is named with its type."""
    return [line for line in fallbacks if line.name not in kept]


def _check_pins(tensors: Sequence[PlannedTensor], wanted: Mapping[str, TensorType], named: set[str]) -> tuple[str, ...]:
    """See that nothing but the named tensors changed; tell which of them llama-quantize never changes."""
    others = [tensor for tensor in tensors if tensor.to is not wanted[tensor.name]]
    if strays := [tensor.name for tensor in others if tensor.name not in named]:
        raise VerificationError(f"llama-quantize does not keep {strays[0]!r} in the type that it was told to keep")
    left = [tensor for tensor in others if tensor.to is tensor.was]
    if not left:
        return ()
    kinds = ", ".join(sorted({tensor.to.name for tensor in left}))
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (f"llama.cpp never changes these, they stay {kinds}: {left[0].name}{more}",)


def _overrides(headers: Sequence[GgufHeader], options: QuantizeOptions) -> tuple[tuple[str, str], ...]:
    aligned = all(header.alignment == ALIGNMENT for header in headers)
    return options.overrides if aligned else (*options.overrides, ("general.alignment", f"int:{ALIGNMENT}"))


def _tool_options(
    source: Path,
    output: Path | None,
    kind: QuantizationType,
    options: QuantizeOptions,
    patterns: Patterns,
    overrides: tuple[tuple[str, str], ...],
) -> tool.Options:
    return tool.Options(
        source=source,
        output=output,
        type=kind.name,
        threads=options.threads or cpu.usable_cores(),
        imatrix=options.imatrix,
        include_weights=options.include_weights,
        exclude_weights=options.exclude_weights,
        allow_requantize=options.allow_requantize,
        pure=options.pure,
        leave_output_tensor=options.leave_output_tensor,
        output_tensor_type=options.output_tensor_type.name if options.output_tensor_type is not None else None,
        token_embedding_type=options.token_embedding_type.name if options.token_embedding_type is not None else None,
        tensor_types=tuple((pattern, tensor_type.name) for pattern, tensor_type in patterns),
        prune_layers=options.prune_layers,
        keep_split=options.keep_split,
        overrides=overrides,
    )


def _refuse(failure: str, asking: _Asking) -> None:
    if "imatrix" in failure:
        raise InputError(f"llama.cpp does not accept the importance matrix {asking.options.imatrix}: {failure}")
    if "no tensor type fallback" in failure:
        raise UsageError(f"{asking.kind.name} does not fit the tensors of this model: {failure}")
    raise GgufFileError(f"llama.cpp does not accept {asking.source}: {failure}")


def _tensors(asking: _Asking, report: tool.Report) -> tuple[PlannedTensor, ...]:
    """Join what the headers say with what llama-quantize would do; they must speak of the same tensors."""
    infos = {name: (info, part) for name, info, part in asking.kept}
    planned = []
    for line in report.tensors:
        info, part = infos.pop(line.name, (None, 0))
        if info is None or stripped(line.shape) != stripped(info.shape):
            raise VerificationError(
                f"{asking.source}: llama-quantize speaks of a tensor that is not there: {line.name!r}"
            )
        to = _type_named(line.to) if line.to else info.type
        if info.shape[0] % to.block_size if info.shape else to.block_size > 1:
            # Types named for one tensor are obeyed without a look at its shape, and the program aborts midway.
            raise UsageError(
                f"tensor {line.name!r} cannot be {to.name}: its rows of {info.shape[0] if info.shape else 1} weights"
                f" do not divide into blocks of {to.block_size}",
                hint="name a type with smaller blocks for it, such as Q8_0",
            )
        placed = part if asking.options.keep_split else 0
        planned.append(
            PlannedTensor(line.name, info.shape, info.type, to, info.size, _bytes(info, to), placed, info.name)
        )
    if infos:
        raise VerificationError(
            f"{asking.source}: llama-quantize would leave out {len(infos)} tensors, as {next(iter(infos))!r}"
        )
    return tuple(planned)


def _refuse_requantizing(source: Path, tensors: tuple[PlannedTensor, ...], options: QuantizeOptions) -> None:
    lossy = Counter(tensor.was.name for tensor in tensors if tensor.was.is_quantized and tensor.to is not tensor.was)
    if lossy and not options.allow_requantize:
        kinds = ", ".join(f"{count} {name}" for name, count in lossy.most_common())
        raise UsageError(
            f"{source} is quantized already ({kinds} tensors); quantizing it again loses more than from F16",
            hint="start from the F16 or BF16 file, or add --allow-requantize",
        )


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
    if last is None or last.name in named or options.pure or last.was is TensorType.Q8_0 or options.keep:
        return tuple(found)
    chosen = [options.output_tensor_type, *(t for p, t in options.tensor_types if re.search(p.lower(), last.name))]
    if any(tensor_type is not None for tensor_type in chosen) or kind.base is TensorType.MXFP4:
        return tuple(found)
    if last.to is TensorType.Q8_0 and kind.base.block_size > 1 and last.shape[0] % kind.base.block_size:
        wanted = TensorType.Q5_K if kind.name in _Q5_K_OUTPUT else TensorType.Q6_K
        found.insert(0, Fallback(last.name, last.shape[0], wanted, last.to))
    return tuple(found)


def _sizes(
    header: GgufHeader,
    tensors: tuple[PlannedTensor, ...],
    asking: _Asking,
    covered: Mapping[str, int],
    report: tool.Report,
) -> tuple[int, ...]:
    added: dict[str, int] = {}
    if asking.options.imatrix and covered:
        added["quantize.imatrix.file"] = string_bytes(str(asking.options.imatrix))
        added["quantize.imatrix.entries_count"] = 4
        if report.imatrix_dataset is not None:
            added["quantize.imatrix.dataset"] = 8 + min(imatrix.LONGEST_PATH, len(report.imatrix_dataset.encode()))
        if report.imatrix_chunks > 0:
            added["quantize.imatrix.chunks_count"] = 4
    if asking.options.prune_layers:
        added[f"{header.metadata['general.architecture']}.block_count"] = 4
    parts = [
        [(t.name, stripped(t.shape), t.bytes_after) for t in tensors if t.part == number]
        for number in range(1 + max((tensor.part for tensor in tensors), default=0))
    ]
    return file_sizes(header, parts, added, asking.overrides)


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
