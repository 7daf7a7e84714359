"""The two engines that carry out a plan: the compiled llama-quantize, and libggml in our own process. Same bytes."""

import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from enum import StrEnum
from itertools import accumulate
from pathlib import Path

from ggufkit.errors import LlamaCppError, OutputError
from ggufkit.files import PartialFile, atomic_output, resumable_output
from ggufkit.gguf_file.reader import TensorInfo, read_header
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import quantize as tool
from ggufkit.progress import Progress
from ggufkit.quantization.follower import Follower
from ggufkit.quantization.job import Job, Work
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.split_output import atomic_parts


class Engine(StrEnum):
    """Who quantizes."""

    AUTO = "auto"  # direct for checkpoints, where it can; else llama-quantize
    BINARY = "binary"
    DIRECT = "direct"


WritesAll = Callable[[Sequence[tuple[QuantizationPlan, PartialFile]], Progress, str], Sequence[Collection[str]]]
"""Writes all of these files in one pass, and names for each the tensors on lattices; the text says what is done."""


def binary_engine(open_source: Callable[[], AbstractContextManager[Path]], doubt: Future[None] | None = None) -> Work:
    """Let llama-quantize do one job after the other; `open_source` makes the GGUF file, if it has to be made.

    `doubt` is a look at the source that is not over yet; where it ends badly, so does the work.
    """

    def work(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[Job, float]]:
        with open_source() as source:
            for job in jobs:
                started = time.monotonic()
                _run_tool(job, source, progress, doubt)
                yield job, time.monotonic() - started

    return work


def direct_engine(write: WritesAll) -> Work:
    """Do all jobs in one pass; a run that was interrupted goes on where it was, whatever types are left."""

    def work(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[Job, float]]:
        started = time.monotonic()
        with ExitStack() as all_files:
            stacks = [all_files.enter_context(ExitStack()) for _ in jobs]
            files = [
                stack.enter_context(resumable_output(job.output, size=job.plan.bytes_after))
                for stack, job in zip(stacks, jobs, strict=True)
            ]
            stage = f"Quantizing to {', '.join(job.plan.type.name for job in jobs)}"
            kept = write([(job.plan, file) for job, file in zip(jobs, files, strict=True)], progress, stage)
            for job, file, found in zip(jobs, files, kept, strict=True):
                job.on_lattice.update(found)
                _check(job, job.plan, [file.path])
            seconds = time.monotonic() - started
            for stack, job in zip(stacks, jobs, strict=True):
                stack.close()
                yield job, seconds

    return work


def from_gguf(engine: Engine, plans: Sequence[QuantizationPlan], doubt: Future[None]) -> Work:
    """Choose the engine for a GGUF source, of which all of these are plans; `doubt` is a look at it, under way.

    Raises:
        UsageError: the direct engine is wanted, and cannot do this.
        MissingDependencyError: it is wanted, and libggml is not built.
    """
    source, files = plans[0].source, plans[0].sources
    if engine is not Engine.DIRECT:
        return binary_engine(lambda: contextlib.nullcontext(source), doubt)
    from ggufkit.quantization import direct

    doubt.result()
    for plan in plans:
        direct.refuse_what_only_the_binary_does(plan)

    def write(
        jobs: Sequence[tuple[QuantizationPlan, PartialFile]], progress: Progress, stage: str
    ) -> Sequence[Collection[str]]:
        threads = plans[0].options.threads or cpu.usable_cores()
        stream = direct.stream_of(files, direct.library(), threads=threads, progress=progress, stage=stage)
        return direct.quantize_stream(read_header(source), direct.identity_of(files), jobs, stream)

    return direct_engine(write)


def _run_tool(job: Job, source: Path, progress: Progress, doubt: Future[None] | None) -> None:
    planned = replace(job.plan, source=source)
    done = list(accumulate((tensor.bytes_before for tensor in planned.tensors), initial=0))
    stage = f"Quantizing to {planned.type.name}"

    def write(target: Path, written: Sequence[Path]) -> None:
        with Follower(planned, target) as follower:

            def on_tensor(number: int, _: int) -> None:
                if doubt and doubt.done():
                    doubt.result()
                follower.begun(number)
                progress(stage, done[min(number, len(planned.tensors))], done[-1])

            try:
                report = tool.quantize(planned.tool_options(target), on_tensor)
            finally:
                if doubt:
                    doubt.result()  # where it fails too, it says better why
        if report.failure:
            _fail(report.failure, job.output)
        from ggufkit.quantization.lattice_repack import repack  # loads numpy, for which llama-quantize need not wait

        changed = repack(planned, written)
        job.on_lattice.update(changed)
        if planned.options.search_scales:
            from ggufkit.quantization.searched_output import search_output

            changed |= search_output(planned, written, progress)
        _check(job, planned, written, {tensor for tensor in follower.sound if tensor.name not in changed})

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


def _check(
    job: Job, planned: QuantizationPlan, written: Sequence[Path], sound: Collection[TensorInfo] = frozenset()
) -> None:
    from ggufkit.quantization.check import check_output_files  # loads numpy, while something is being quantized

    threads = planned.options.threads or cpu.usable_cores()
    check_output_files(planned, written, job.output, threads=threads, sound=sound)


def _fail(failure: str, output: Path) -> None:
    """Say why llama-quantize gave up. A full disk is one exception among others to it; the words are libstdc++'s."""
    if "iostream" in failure or "ios_base" in failure or "basic_ios" in failure:
        free = shutil.disk_usage(output.parent).free
        raise OutputError(
            f"cannot write {output}: llama-quantize could not write on ({free:,} bytes are free now)",
            hint="free some space, or write elsewhere with -o",
        )
    raise LlamaCppError(f"llama-quantize failed: {failure}")
