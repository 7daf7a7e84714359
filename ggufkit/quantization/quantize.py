"""Making a GGUF model smaller with llama-quantize, so that the result is whole, checked, or not there at all."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ggufkit.errors import GgufFileError, LlamaCppError, OutputError, UsageError, VerificationError
from ggufkit.files import PlannedFile, atomic_output, check_output, check_space
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp import quantize as tool
from ggufkit.progress import Progress, silent
from ggufkit.quantization.plan import Fallback, QuantizationPlan, QuantizeOptions, plan, stripped
from ggufkit.quantization.types import QuantizationType, quantization_type


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """What was made. Bytes are those of whole files; bits per weight count the tensors only, all of them."""

    source: Path
    output: Path
    type: str
    tensors: int
    elements: int
    bytes_before: int
    bytes_after: int
    bits_per_weight_before: float
    bits_per_weight_after: float
    tensor_types: Mapping[str, int]
    fallbacks: tuple[Fallback, ...]
    without_importance: tuple[str, ...]
    seconds: float


def quantize(
    source: Path,
    kind: QuantizationType | str,
    output: Path,
    options: QuantizeOptions | None = None,
    *,
    progress: Progress = silent,
) -> QuantizationResult:
    """Quantize a GGUF model to one type. `progress` counts the bytes of the source.

    Raises:
        UsageError: unknown type, output equal to input, already quantized, or an importance matrix is needed.
        InputError: the source or the importance matrix cannot be used.
        OutputError: the output cannot be written.
        LlamaCppError: llama-quantize died.
        VerificationError: it ended well, but what it wrote is not what it had announced.
    """
    return quantize_all(source, [(kind, output)], options, progress=progress)[0]


def quantize_all(
    source: Path,
    jobs: Sequence[tuple[QuantizationType | str, Path]],
    options: QuantizeOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[QuantizationResult, ...]:
    """Quantize a GGUF model to several types, one after the other; all are checked before the first begins.

    Raises:
        As `quantize`.
    """
    kinds = [kind if isinstance(kind, QuantizationType) else quantization_type(kind) for kind, _ in jobs]
    plans = [plan(source, kind, options) for kind in kinds]
    outputs = [output for _, output in jobs]
    for job, output in zip(plans, outputs, strict=True):
        check_output(output, inputs=[*job.sources, *([job.options.imatrix] if job.options.imatrix else [])])
        if outputs.count(output) > 1:
            raise UsageError(f"two types would be written to the same file: {output}", hint="name a folder with -o")
    check_space(PlannedFile(output, job.bytes_after) for job, output in zip(plans, outputs, strict=True))
    return tuple(_execute(job, output, progress) for job, output in zip(plans, outputs, strict=True))


def _execute(job: QuantizationPlan, output: Path, progress: Progress) -> QuantizationResult:
    started = time.monotonic()
    done = list(accumulate((tensor.bytes_before for tensor in job.tensors), initial=0))
    stage = f"Quantizing to {job.type.name}"

    def on_tensor(finished: int, _: int) -> None:
        progress(stage, done[min(finished, len(job.tensors))], done[-1])

    progress(stage, 0, done[-1])
    with atomic_output(output, size=job.bytes_after) as temporary:
        report = tool.quantize(job.tool_options(temporary), on_tensor)
        if report.failure:
            _fail(report.failure, output)
        _check(job, temporary, output)
    progress(stage, done[-1], done[-1])
    return QuantizationResult(
        source=job.source,
        output=output,
        type=job.type.name,
        tensors=len(job.tensors),
        elements=job.elements,
        bytes_before=job.bytes_before,
        bytes_after=output.stat().st_size,
        bits_per_weight_before=job.bits_per_weight_before,
        bits_per_weight_after=job.bits_per_weight_after,
        tensor_types=job.tensor_types,
        fallbacks=job.fallbacks,
        without_importance=job.without_importance,
        seconds=time.monotonic() - started,
    )


def _fail(failure: str, output: Path) -> None:
    """Say why llama-quantize gave up. A full disk is one exception among others to it; the words are libstdc++'s."""
    if "iostream" in failure or "ios_base" in failure or "basic_ios" in failure:
        free = shutil.disk_usage(output.parent).free
        raise OutputError(
            f"cannot write {output}: llama-quantize could not write on ({free:,} bytes are free now)",
            hint="free some space, or write elsewhere with -o",
        )
    raise LlamaCppError(f"llama-quantize failed: {failure}")


def _check(job: QuantizationPlan, written: Path, output: Path) -> None:
    """Compare the file with the plan before it gets its name: llama-quantize's status 0 is no proof."""
    try:
        header = read_header(written)
    except GgufFileError as error:
        raise VerificationError(f"llama-quantize ended well, but {output} would not be whole: {error}") from error
    planned = {tensor.name: (stripped(tensor.shape), tensor.to) for tensor in job.tensors}
    found = {tensor.name: (stripped(tensor.shape), tensor.type) for tensor in header.tensors}
    if different := sorted(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name)):
        raise VerificationError(
            f"llama-quantize ended well, but {len(different)} tensors of {output} would not be what it had announced,"
            f" as {different[0]!r}"
        )
    end = max((tensor.offset + tensor.size for tensor in header.tensors), default=header.data_offset)
    if header.file_size - end not in range(header.alignment):
        raise VerificationError(
            f"llama-quantize ended well, but {output} would be {header.file_size:,} bytes long,"
            f" {header.file_size - end:,} behind the last tensor"
        )
