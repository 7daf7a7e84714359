"""Making a GGUF model smaller with llama-quantize, so that the result is whole, checked, or not there at all."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError, OutputError, UsageError, VerificationError
from ggufkit.files import PlannedFile, atomic_output, check_output, check_space, remove_leftovers
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import quantize as tool
from ggufkit.progress import Progress, silent
from ggufkit.quantization import finished
from ggufkit.quantization.check import check_output_files
from ggufkit.quantization.overrides import Shift
from ggufkit.quantization.plan import Fallback, QuantizationPlan, QuantizeOptions, plan
from ggufkit.quantization.source import check_loads, part_names
from ggufkit.quantization.split_output import atomic_parts, finish_dead_runs
from ggufkit.quantization.types import QuantizationType, quantization_type

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """What was made. Bytes are those of whole files; bits per weight count the tensors only, all of them.

    `output` is the first file of `outputs`, of which there are several for a model that stays split. `was_there` says
    that an earlier run had finished it; `seconds` are those it took then.
    """

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
    outputs: tuple[Path, ...] = ()
    shifted: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = ()
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One type, planned, and the file or files that it goes to."""

    plan: QuantizationPlan
    output: Path
    outputs: tuple[Path, ...] = field(default=())

    @property
    def files(self) -> list[PlannedFile]:
        """The files to be written, with their sizes."""
        return [PlannedFile(path, size) for path, size in zip(self.outputs, self.plan.part_bytes, strict=True)]


def quantize(
    source: Path,
    kind: QuantizationType | str,
    output: Path,
    options: QuantizeOptions | None = None,
    *,
    strict: bool = False,
    progress: Progress = silent,
) -> QuantizationResult:
    """Quantize a GGUF model to one type. `progress` counts the bytes of the source.

    Raises:
        UsageError: unknown type, output equal to input, already quantized, or an importance matrix is needed.
        InputError: the source or the importance matrix cannot be used.
        OutputError: the output cannot be written.
        LlamaCppError: llama-quantize died.
        VerificationError: it ended well, but what it wrote is not what it had announced; or, with `strict`, the plan
            is not what the type's recipe wants.
    """
    return quantize_all(source, [(kind, output)], options, strict=strict, progress=progress)[0]


def quantize_all(
    source: Path,
    jobs: Sequence[tuple[QuantizationType | str, Path]],
    options: QuantizeOptions | None = None,
    *,
    strict: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[QuantizationResult, ...]:
    """Quantize a GGUF model to several types, one after the other; all are checked before the first begins.

    With `resume`, outputs that an earlier run has finished in just the same way are verified and kept.

    Raises:
        As `quantize`.
    """
    kinds = [kind if isinstance(kind, QuantizationType) else quantization_type(kind) for kind, _ in jobs]
    planned = [plan(source, kind, options) for kind in kinds]
    check_loads(source)
    outputs = [output for _, output in jobs]
    todo = prepare(planned, outputs, inputs=planned[0].sources, strict=strict)
    return carry_out(todo, lambda: contextlib.nullcontext(source), planned[0].sources, resume=resume, progress=progress)


def prepare(
    plans: Sequence[QuantizationPlan], outputs: Sequence[Path], *, inputs: Sequence[Path], strict: bool = False
) -> list[Job]:
    """Refuse outputs that cannot or must not be written, and with `strict` plans that fall back on other types.

    Raises:
        As `quantize`.
    """
    jobs = []
    for planned, output in zip(plans, outputs, strict=True):
        if strict:
            refuse_surprises(planned)
        matrix = [planned.options.imatrix] if planned.options.imatrix else []
        files = tuple(part_names(output, len(planned.part_bytes))) if planned.options.keep_split else (output,)
        for path in files:
            check_output(path, inputs=[*inputs, *matrix])
        if outputs.count(output) > 1:
            raise UsageError(f"two types would be written to the same file: {output}", hint="name a folder with -o")
        jobs.append(Job(planned, output, files))
    return jobs


def carry_out(
    jobs: Sequence[Job],
    open_source: Callable[[], AbstractContextManager[Path]],
    content: Sequence[Path],
    *,
    also: Sequence[PlannedFile] = (),
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[QuantizationResult, ...]:
    """Do what is not done yet. `open_source` gives the GGUF file to read, which is made only if it is needed.

    `content` are the files that decide about the source's weights: the model itself, or the checkpoint behind it.
    `also` are files that `open_source` writes.

    Raises:
        As `quantize`.
    """
    for folder in {path.parent for job in jobs for path in job.outputs}:
        remove_leftovers(folder)
    done: dict[Path, QuantizationResult] = {}
    if resume:
        for job in jobs:
            finish_dead_runs(job.outputs) if len(job.outputs) > 1 else None
            if (seconds := finished.recall(job.plan, job.outputs, content)) is not None:
                done[job.output] = _result(job, seconds, was_there=True)
    todo = [job for job in jobs if job.output not in done]
    if todo:
        check_space([*also, *(file for job in todo for file in job.files)])
        with open_source() as source, _described(content, wanted=resume) as source_note:
            for job in todo:
                finished.forget(job.outputs[0])
                result = _execute(job, source, progress)
                if source_note:
                    finished.remember(job.plan, job.outputs, source_note.result(), result.seconds)
                done[job.output] = result
    return tuple(done[job.output] for job in jobs)


@contextlib.contextmanager
def _described(content: Sequence[Path], *, wanted: bool) -> Iterator[Future[list[dict[str, Any]]] | None]:
    """Hash the source while it is being quantized for the first time, when it is in memory anyway."""
    if not wanted:
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(finished.described, content)


def _execute(job: Job, source: Path, progress: Progress) -> QuantizationResult:
    started = time.monotonic()
    planned = replace(job.plan, source=source)
    done = list(accumulate((tensor.bytes_before for tensor in planned.tensors), initial=0))
    stage = f"Quantizing to {planned.type.name}"

    def on_tensor(finished_tensors: int, _: int) -> None:
        progress(stage, done[min(finished_tensors, len(planned.tensors))], done[-1])

    def write(target: Path, written: Sequence[Path]) -> None:
        report = tool.quantize(planned.tool_options(target), on_tensor)
        if report.failure:
            _fail(report.failure, job.output)
        threads = planned.options.threads or cpu.usable_cores()
        check_output_files(planned, written, job.output, threads=threads)

    progress(stage, 0, done[-1])
    if planned.options.keep_split:
        with atomic_parts(job.outputs, planned.part_bytes) as folder:
            # llama-quantize cuts off five letters wherever the path holds ".gguf", and adds the number of the part.
            whole = job.outputs[0].name.rpartition("-00001-of-")[0] + ".gguf"
            write(folder / whole, [folder / path.name for path in job.outputs])
    else:
        with atomic_output(job.output, size=planned.bytes_after) as temporary:
            write(temporary, [temporary])
    progress(stage, done[-1], done[-1])
    return _result(job, time.monotonic() - started)


def _result(job: Job, seconds: float, *, was_there: bool = False) -> QuantizationResult:
    planned = job.plan
    return QuantizationResult(
        source=planned.source,
        output=job.outputs[0],
        outputs=job.outputs,
        type=planned.type.name,
        tensors=len(planned.tensors),
        elements=planned.elements,
        bytes_before=planned.bytes_before,
        bytes_after=sum(path.stat().st_size for path in job.outputs),
        bits_per_weight_before=planned.bits_per_weight_before,
        bits_per_weight_after=planned.bits_per_weight_after,
        tensor_types=planned.tensor_types,
        fallbacks=planned.fallbacks,
        without_importance=planned.without_importance,
        shifted=planned.shifted,
        notes=planned.notes,
        seconds=seconds,
        was_there=was_there,
    )


def refuse_surprises(planned: QuantizationPlan) -> None:
    """Refuse a plan in which a tensor gets another type than the recipe wants: what --strict means.

    Raises:
        VerificationError: naming the tensors.
    """
    surprises = [f"{line.tensor} gets {line.got.name} instead of {line.wanted.name}" for line in planned.fallbacks]
    surprises += [f"{line.tensor} gets {line.got.name} instead of {line.without.name}" for line in planned.shifted]
    if surprises:
        more = f" and {len(surprises) - _SHOWN} more" if len(surprises) > _SHOWN else ""
        raise VerificationError(
            f"{planned.type.name} is not what this model would get (--strict): {'; '.join(surprises[:_SHOWN])}{more}",
            hint="take a type whose blocks fit, such as Q8_0 or IQ4_NL; --pin or --keep where one tensor moves others;"
            " or leave out --strict",
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
