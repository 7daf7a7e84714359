"""What `ggufkit quantize` does once its options are read: from a GGUF file, or from a checkpoint folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.conversion import OutputType
    from ggufkit.progress import Progress
    from ggufkit.quantization.engines import Engine
    from ggufkit.quantization.options import QuantizeOptions
    from ggufkit.quantization.plan import QuantizationPlan
    from ggufkit.quantization.quantize import QuantizationResult
    from ggufkit.quantization.types import QuantizationType


@dataclass(frozen=True, slots=True)
class How:
    """What decides how the work is done, apart from the types and what llama-quantize knows."""

    engine: "Engine"
    between: "OutputType | None"
    keep_converted: bool
    strict: bool
    again: bool


def engine_named(name: str) -> "Engine":
    """Read the name of an engine. Raises UsageError."""
    from ggufkit.errors import UsageError
    from ggufkit.quantization.engines import Engine

    try:
        return Engine(name.lower())
    except ValueError:
        raise UsageError(f"unknown engine {name!r}", hint=f"one of {', '.join(Engine)}") from None


def type_between(source: Path, name: str | None, *, keep_converted: bool) -> "OutputType | None":
    """Read the type that a checkpoint is converted to on the way; None for a GGUF file, which is converted already.

    Raises:
        UsageError: it is no such type, or an option about the conversion is given where there is none.
    """
    from ggufkit.errors import UsageError

    if not source.is_dir():
        flags = [flag for flag, given in (("--outtype", name), ("--keep-f16", keep_converted)) if given]
        if flags:
            raise UsageError(
                f"{' and '.join(flags)} is for checkpoint folders, and {source} is a file, which is not converted",
                hint="leave it out",
            )
        return None
    from ggufkit.conversion import OutputType

    name = name or "f16"
    if name.lower() not in {"f16", "bf16", "f32"}:
        raise UsageError(
            f"--outtype {name!r} is none of f16, bf16 and f32", hint="Q8_0 and others are types, not outtypes"
        )
    return OutputType(name.lower())


def converted_path(source: Path, jobs: Sequence[tuple["QuantizationType", Path]], how: How) -> Path | None:
    """Where the converted checkpoint is kept, beside the first output; None where it is not."""
    from ggufkit.quantization.names import output_path
    from ggufkit.quantization.types import quantization_type

    if not how.keep_converted or how.between is None:
        return None
    return jobs[0][1].with_name(output_path(source, quantization_type(how.between.name)).name)


def plans_of(
    source: Path, jobs: Sequence[tuple["QuantizationType", Path]], options: "QuantizeOptions", how: How
) -> list["QuantizationPlan"]:
    """Plan what would be done. Raises as `ggufkit.one_pass.open_skeleton` and `ggufkit.quantization.plan.plan`."""
    from ggufkit.quantization.plan import plan
    from ggufkit.quantization.quantize import refuse_surprises
    from ggufkit.quantization.source import check_loads

    kinds = [kind for kind, _ in jobs]
    if source.is_dir():
        from ggufkit.conversion import OutputType
        from ggufkit.one_pass import open_skeleton

        with open_skeleton(source, how.between or OutputType.F16) as skeleton:
            check_loads(skeleton.path, called=source)
            plans = [skeleton.plan(kind, options) for kind in kinds]
    else:
        plans = [plan(source, kind, options) for kind in kinds]
        check_loads(source)
    for planned in plans if how.strict else ():
        refuse_surprises(planned)
    return plans


def results_of(
    source: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    options: "QuantizeOptions",
    how: How,
    progress: "Progress",
) -> tuple["QuantizationResult", ...]:
    """Do it. Raises as `ggufkit.one_pass.quantize_checkpoint` and `ggufkit.quantization.quantize.quantize_all`."""
    from ggufkit.files import is_begun

    try:
        return _do(source, jobs, options, how, progress)
    except (KeyboardInterrupt, SystemExit):
        if any(is_begun(output) for _, output in jobs):
            _output.note("what was done is kept in hidden files; the same command goes on where it stopped")
        raise


def _do(
    source: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    options: "QuantizeOptions",
    how: How,
    progress: "Progress",
) -> tuple["QuantizationResult", ...]:
    from ggufkit.quantization.quantize import quantize_all

    resume = len(jobs) > 1
    if not source.is_dir():
        return quantize_all(
            source,
            jobs,
            options,
            engine=how.engine,
            strict=how.strict,
            resume=resume,
            again=how.again,
            progress=progress,
        )
    from ggufkit.conversion import OutputType
    from ggufkit.one_pass import quantize_checkpoint

    return quantize_checkpoint(
        source,
        jobs,
        options,
        engine=how.engine,
        outtype=how.between or OutputType.F16,
        intermediate=converted_path(source, jobs, how),
        strict=how.strict,
        resume=resume,
        again=how.again,
        progress=progress,
        warn=_output.warn,
    )
