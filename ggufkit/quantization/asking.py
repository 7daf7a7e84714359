"""Asking llama-quantize what it would do: one dry run, or several where single tensors are given types."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError, UsageError, VerificationError
from ggufkit.gguf_file.reader import TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import quantize as tool
from ggufkit.quantization.keep import tensors_to_keep
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.overrides import Patterns, Shift, check_keep, decided, pinned, shifts
from ggufkit.quantization.planned import Fallback, PlannedTensor, stripped
from ggufkit.quantization.types import QuantizationType

_Q5_K_OUTPUT = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}


@dataclass(frozen=True, slots=True)
class Stand:
    """What `plan` shows llama-quantize in place of the real files, when many types are planned at once.

    `source` holds the same tensors and sizes as the real one, but no weights and no vocabulary. `imatrix` stands for
    an importance matrix that is still to be made; with it, a type that needs one is not refused.
    """

    source: Path
    imatrix: Path | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """What the dry runs of one plan have in common."""

    source: Path
    kind: QuantizationType
    options: QuantizeOptions
    kept: Sequence[tuple[str, TensorInfo, int]]
    overrides: tuple[tuple[str, str], ...]
    stand: Stand | None

    @property
    def imatrix(self) -> Path | None:
        """The matrix that llama-quantize is shown."""
        return self.options.imatrix or (self.stand.imatrix if self.stand else None)

    def dry_run(self, patterns: Patterns) -> tuple[tool.Report, tuple[PlannedTensor, ...]]:
        """Ask once. Raises GgufFileError, InputError or UsageError where llama-quantize would not do it."""
        asked = tool_options(self.source, None, self.kind, self.options, patterns, self.overrides)
        report = tool.quantize(
            replace(asked, source=self.stand.source if self.stand else self.source, imatrix=self.imatrix)
        )
        if report.failure:
            _refuse(report.failure, self)
        return report, _tensors(self, report)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to which type each tensor gets."""

    report: tool.Report
    tensors: tuple[PlannedTensor, ...]
    patterns: Patterns = ()
    shifted: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = ()


def choose_types(asking: Asking, architecture: str) -> Answer:
    """Ask llama-quantize; where single tensors are given types, ask what it would have done without."""
    options, names = asking.options, [name for name, _, _ in asking.kept]
    # Vectors are never quantized, whatever a pattern says.
    named = decided([name for name, info, _ in asking.kept if len(stripped(info.shape)) > 1], asking.kind, options)
    if not named and not options.keep:
        return Answer(*asking.dry_run(()))
    report, tensors = asking.dry_run(())
    recipe = {tensor.name: tensor.to for tensor in tensors}
    shifted: tuple[Shift, ...] = ()
    if options.pin or not named:
        wanted = {**recipe, **{name: kept for name, kept in named.items() if name in recipe}}
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
        report = replace(report, fallbacks=(*_still(before.fallbacks, {*named, *kept}), *report.fallbacks))
    return Answer(report, tensors, patterns, shifted, notes)


def _still(fallbacks: Sequence[tool.FallbackLine], kept: Collection[str]) -> Sequence[tool.FallbackLine]:
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


def tool_options(
    source: Path,
    output: Path | None,
    kind: QuantizationType,
    options: QuantizeOptions,
    patterns: Patterns,
    overrides: tuple[tuple[str, str], ...],
) -> tool.Options:
    """Spell everything for llama-quantize; without an output it only says what it would do."""
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
        max_buffer_size=options.max_buffer_size,
        overrides=overrides,
    )


def _refuse(failure: str, asking: Asking) -> None:
    if "imatrix" in failure:
        raise InputError(f"llama.cpp does not accept the importance matrix {asking.options.imatrix}: {failure}")
    if "no tensor type fallback" in failure:
        raise UsageError(f"{asking.kind.name} does not fit the tensors of this model: {failure}")
    raise GgufFileError(f"llama.cpp does not accept {asking.source}: {failure}")


def _tensors(asking: Asking, report: tool.Report) -> tuple[PlannedTensor, ...]:
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


def fallbacks(
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


def _type_named(name: str) -> TensorType:
    try:
        return TensorType[name.upper()]
    except KeyError:
        raise VerificationError(f"llama-quantize speaks of an unknown tensor type: {name!r}") from None


def _bytes(info: TensorInfo, to: TensorType) -> int:
    return info.elements // to.block_size * to.block_bytes
