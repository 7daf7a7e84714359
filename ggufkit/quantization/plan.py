"""Everything about a quantization before it begins: each tensor's new type, the exact size, and what forbids it.

The plan is llama-quantize's own: its `--dry-run` reads the header of the source and takes milliseconds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.counting import counted
from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp import quantize as tool
from ggufkit.quantization import imatrix
from ggufkit.quantization.asking import Asking, Stand, choose_types, fallbacks, tool_options
from ggufkit.quantization.matrix_fit import NEVER_WITHOUT, Measured, chosen, needs_imatrix, uncovered
from ggufkit.quantization.options import QuantizeOptions, check_options
from ggufkit.quantization.output_size import ALIGNMENT, file_sizes, string_bytes
from ggufkit.quantization.overrides import Patterns, Shift
from ggufkit.quantization.planned import Fallback, PlannedTensor, elements, stripped
from ggufkit.quantization.source import before_pruning, doubts_about_type, kept_tensors, read_model
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


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What quantizing will do. `tensors` are in the order of the output; sizes in bytes are those of whole files.

    `shifted` are tensors that changed because a neighbour was given a type; `notes` are for people.
    `patterns` and `overrides` are what llama-quantize is told, `overrides` with those that we add. `bytes_unnamed` is
    `bytes_after` of a file that does not name the importance matrix.
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
    bytes_unnamed: int
    overrides: tuple[tuple[str, str], ...]
    part_bytes: tuple[int, ...] = ()
    patterns: Patterns = ()
    shifted: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(elements(tensor.shape) for tensor in self.tensors)

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
        return any(needs_imatrix(t.name, t.was, t.to, self.type.name) for t in self.tensors)

    def tool_options(self, output: Path | None) -> tool.Options:
        """Spell the plan for llama-quantize."""
        return tool_options(self.source, output, self.type, self.options, self.patterns, self.overrides)


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
    asking = Asking(source, kind, options, kept, _overrides(headers, options), stand)
    answer = choose_types(asking, str(headers[0].metadata["general.architecture"]))
    report, tensors = answer.report, answer.tensors
    _refuse_requantizing(source, tensors, options)
    quantized = [tensor for tensor in tensors if tensor.to is not tensor.was and tensor.to.is_quantized]
    needing = {t.name for t in quantized if needs_imatrix(t.name, t.was, t.to, kind.name)}
    if asking.imatrix is None and (needing or report.needs_imatrix):
        raise UsageError(
            f"{kind.name} needs an importance matrix for this model"
            f" ({counted(len(needing), 'tensor')} would be garbage without)",
            hint=f"make one: ggufkit imatrix {source} -f TEXT -o imatrix.gguf, then --imatrix imatrix.gguf; or"
            " --imatrix auto; or take a type that needs none, such as Q2_K or Q3_K_M",
        )
    _refuse_doomed([t for t in quantized if t.name not in needing], covered, options)
    measured = [Measured(t.name, elements((t.shape[0], *t.shape[2:3])), t.name in needing) for t in quantized]
    source_names = [info.name for header in headers for info in header.tensors]
    sizes = _sizes(headers[0], tensors, asking, covered, report)
    return QuantizationPlan(
        source=source,
        sources=tuple(header.path for header in headers),
        type=kind,
        options=options,
        tensors=tensors,
        fallbacks=fallbacks(kind, options, tensors, report),
        without_importance=uncovered(options.imatrix, covered, source_names, measured, options.prune_layers)
        if options.imatrix
        else (),
        bytes_before=sum(header.file_size for header in headers),
        bytes_after=sum(sizes),
        bytes_unnamed=sum(_sizes(headers[0], tensors, asking, {}, report)) if covered else sum(sizes),
        part_bytes=sizes,
        overrides=asking.overrides,
        patterns=answer.patterns,
        shifted=answer.shifted,
        notes=(*doubts, *answer.notes, *(_unsearched(quantized) if options.search_scales else ())),
    )


def _unsearched(tensors: Sequence[PlannedTensor]) -> tuple[str, ...]:
    """Say which quantized tensors get llama-quantize's scales although others are to be searched for."""
    from ggufkit.quantization.searched_output import is_searched  # loads numpy

    left = [tensor for tensor in tensors if not is_searched(tensor)]
    if not left:
        return ()
    kinds = sorted({f"{tensor.was.name} to {tensor.to.name}" for tensor in left})
    return (f"scales are not searched for in {counted(len(left), 'tensor')} ({', '.join(kinds)})",)


def _refuse_doomed(tensors: Sequence[PlannedTensor], covered: Mapping[str, int], options: QuantizeOptions) -> None:
    """Refuse embeddings and output layers in types that libggml stores with importance only. Raises UsageError."""
    for tensor in tensors:
        if tensor.to in NEVER_WITHOUT and before_pruning(tensor.name, options.prune_layers) not in covered:
            why = f"{options.imatrix} has none for it" if options.imatrix else "there is no importance matrix"
            raise UsageError(
                f"{tensor.name} cannot be {tensor.to.name}: that type takes importance data, and {why}",
                hint="give it another type, such as IQ2_S or Q2_K",
            )


def _overrides(headers: Sequence[GgufHeader], options: QuantizeOptions) -> tuple[tuple[str, str], ...]:
    aligned = all(header.alignment == ALIGNMENT for header in headers)
    return options.overrides if aligned else (*options.overrides, ("general.alignment", f"int:{ALIGNMENT}"))


def _refuse_requantizing(source: Path, tensors: tuple[PlannedTensor, ...], options: QuantizeOptions) -> None:
    lossy = Counter(tensor.was.name for tensor in tensors if tensor.was.is_quantized and tensor.to is not tensor.was)
    if lossy and not options.allow_requantize:
        kinds = ", ".join(f"{count} {name}" for name, count in lossy.most_common())
        raise UsageError(
            f"{source} is quantized already ({kinds} tensors); quantizing it again loses more than from F16",
            hint="start from the F16 or BF16 file, or add --allow-requantize",
        )


def _sizes(
    header: GgufHeader,
    tensors: tuple[PlannedTensor, ...],
    asking: Asking,
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
