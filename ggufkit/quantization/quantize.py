"""Making a GGUF model smaller with llama-quantize, so that the result is whole, checked, or not there at all."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import UsageError, VerificationError
from ggufkit.files import PlannedFile, check_output, check_space, remove_leftovers
from ggufkit.gguf_file.parts import part_names
from ggufkit.progress import Progress, silent
from ggufkit.quantization import finished
from ggufkit.quantization.engines import Engine, from_gguf
from ggufkit.quantization.job import Job, Work
from ggufkit.quantization.overrides import Shift
from ggufkit.quantization.plan import Fallback, QuantizationPlan, QuantizeOptions, plan
from ggufkit.quantization.source import check_loads
from ggufkit.quantization.split_output import finish_dead_runs
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
    on_lattice: tuple[str, ...] = ()
    was_there: bool = False


def quantize(
    source: Path,
    kind: QuantizationType | str,
    output: Path,
    options: QuantizeOptions | None = None,
    *,
    engine: Engine = Engine.AUTO,
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
    return quantize_all(source, [(kind, output)], options, engine=engine, strict=strict, progress=progress)[0]


def quantize_all(
    source: Path,
    jobs: Sequence[tuple[QuantizationType | str, Path]],
    options: QuantizeOptions | None = None,
    *,
    engine: Engine = Engine.AUTO,
    strict: bool = False,
    resume: bool = False,
    again: bool = False,
    progress: Progress = silent,
) -> tuple[QuantizationResult, ...]:
    """Quantize a GGUF model to several types; all are checked before the first begins.

    The direct engine reads the source once for all types; llama-quantize does one after the other.

    With `resume`, outputs that an earlier run has finished in just the same way are verified and kept, unless they are
    to be made `again`.

    Raises:
        As `quantize`.
    """
    kinds = [kind if isinstance(kind, QuantizationType) else quantization_type(kind) for kind, _ in jobs]
    planned = [plan(source, kind, options) for kind in kinds]
    outputs = [output for _, output in jobs]
    todo = prepare(planned, outputs, inputs=planned[0].sources, strict=strict)
    with ThreadPoolExecutor(1) as beside:
        doubt = beside.submit(check_loads, source)
        work = from_gguf(engine, planned, doubt)
        results = carry_out(todo, work, planned[0].sources, resume=resume, again=again, progress=progress)
        doubt.result()
    return results


def prepare(
    plans: Sequence[QuantizationPlan], outputs: Sequence[Path], *, inputs: Sequence[Path], strict: bool = False
) -> list[Job]:
    """Refuse outputs that cannot or must not be written, and with `strict` plans that fall back on other types.

    Raises:
        As `quantize`; MissingDependencyError where scales are to be searched for without libggml.
    """
    if any(planned.options.search_scales for planned in plans):
        from ggufkit.quantization import direct  # loads numpy

        direct.library()  # which the search needs, and llama-quantize does not
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
    work: Work,
    content: Sequence[Path],
    *,
    also: Sequence[PlannedFile] = (),
    resume: bool = False,
    again: bool = False,
    progress: Progress = silent,
) -> tuple[QuantizationResult, ...]:
    """Let `work` do what is not done yet.

    `content` are the files that decide about the source's weights: the model itself, or the checkpoint behind it.
    `also` are files that the work needs meanwhile.

    Raises:
        As `quantize`.
    """
    for folder in {path.parent for job in jobs for path in job.outputs}:
        remove_leftovers(folder)
    done: dict[Path, QuantizationResult] = {}
    if resume and not again:
        for job in jobs:
            if len(job.outputs) > 1:
                finish_dead_runs(job.outputs)
            if (seconds := finished.recall(job.plan, job.outputs, content)) is not None:
                done[job.output] = _result(job, seconds, was_there=True)
    todo = [job for job in jobs if job.output not in done]
    if todo:
        check_space([*also, *(file for job in todo for file in job.files)])
        with _described(content, wanted=resume) as source_note:
            for job in todo:
                finished.forget(job.outputs[0])
            for job, seconds in work(todo, progress):
                if source_note:
                    finished.remember(job.plan, job.outputs, source_note.result(), seconds)
                done[job.output] = _result(job, seconds)
    return tuple(done[job.output] for job in jobs)


@contextlib.contextmanager
def _described(content: Sequence[Path], *, wanted: bool) -> Iterator[Future[list[dict[str, Any]]] | None]:
    """Hash the source while it is being quantized for the first time, when it is in memory anyway."""
    if not wanted:
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(finished.described, content)


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
        on_lattice=tuple(tensor.name for tensor in planned.tensors if tensor.name in job.on_lattice),
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
