"""From a checkpoint straight to quantized files: no F16 file in between, the weights read once for all types.

The conversion's plan gives the header of the F16 file that is never written; llama-quantize, asked about that header
with a hole behind it, says which type each tensor gets; the conversion then streams its tensors, a piece at a time,
into the direct engine. The result is byte for byte what convert and llama-quantize, one after the other, would write.

Where that cannot be done (no spec of ours, or options that only llama-quantize knows), there are two steps after all.
"""

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.checkpoints import read_config
from ggufkit.conversion import ConversionPlan, Converter, Keep, OutputType, convert, open_plan, who_converts
from ggufkit.conversion.execute import stream
from ggufkit.errors import MissingDependencyError, UsageError
from ggufkit.files import PartialFile, PlannedFile, check_output
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.progress import Progress, silent
from ggufkit.quantization.direct import Sink, identity_of, quantize_stream, refuse_what_only_the_binary_does
from ggufkit.quantization.direct.output import Array
from ggufkit.quantization.engines import Engine, binary_engine, direct_engine
from ggufkit.quantization.job import Work
from ggufkit.quantization.plan import QuantizationPlan, QuantizeOptions, plan
from ggufkit.quantization.quantize import QuantizationResult, carry_out, prepare, quantize_all
from ggufkit.quantization.quantize import quantize as quantize_gguf
from ggufkit.quantization.source import check_loads
from ggufkit.quantization.types import QuantizationType, quantization_type


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A conversion that is planned, and its file without the weights: a header, and a hole of the right size.

    Both live as long as the `with` block that made them.
    """

    conversion: ConversionPlan
    path: Path

    @property
    def modules(self) -> Mapping[str, tuple[str, ...]]:
        """Say which tensors of the GGUF file each tensor of the checkpoint becomes."""
        modules: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for step in self.conversion.steps:
            for source in step.sources:
                modules[source.name] += tuple(target.name for target in step.targets)
        return modules

    def plan(self, kind: QuantizationType, options: QuantizeOptions) -> QuantizationPlan:
        """Plan one type. Raises as `ggufkit.quantization.plan.plan`."""
        return plan(self.path, kind, replace(options, modules=self.modules))


@contextlib.contextmanager
def open_skeleton(checkpoint: Path, outtype: OutputType = OutputType.F16) -> Iterator[Skeleton]:
    """Plan a native conversion and make its skeleton, named after the checkpoint.

    Raises:
        UsageError: only llama.cpp's converter knows this checkpoint, so there is no header yet.
        As `ggufkit.conversion.open_plan`.
    """
    if not converts_natively(checkpoint):
        raise UsageError(
            f"only llama.cpp's converter knows {checkpoint}, so its tensors are known when that has run",
            hint=f"ggufkit convert {checkpoint}, then quantize the result",
        )
    with open_plan(checkpoint, outtype) as conversion, tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        path = Path(folder) / f"{checkpoint.resolve().name}-{conversion.output_type.name}.gguf"
        with path.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        yield Skeleton(conversion, path)


def converts_natively(checkpoint: Path) -> bool:
    """Whether a spec of ours converts this checkpoint. Raises as `ggufkit.conversion.who_converts`."""
    return who_converts(read_config(checkpoint), Converter.AUTO) is Converter.NATIVE


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
    """Quantize a GGUF model or a checkpoint folder to one type. `progress` counts the bytes of the source.

    Raises:
        As `quantize_checkpoint` for a folder, and `ggufkit.quantization.quantize.quantize` for a file.
    """
    if not source.is_dir():
        return quantize_gguf(source, kind, output, options, engine=engine, strict=strict, progress=progress)
    job = (kind if isinstance(kind, QuantizationType) else quantization_type(kind), output)
    return quantize_checkpoint(
        source, [job], options or QuantizeOptions(), engine=engine, strict=strict, progress=progress
    )[0]


def quantize_checkpoint(
    checkpoint: Path,
    jobs: Sequence[tuple[QuantizationType, Path]],
    options: QuantizeOptions,
    *,
    engine: Engine = Engine.AUTO,
    outtype: OutputType = OutputType.F16,
    intermediate: Path | None = None,
    strict: bool = False,
    resume: bool = False,
    again: bool = False,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda warning: None,  # noqa: ARG005 - the signature
) -> tuple[QuantizationResult, ...]:
    """Convert a checkpoint and quantize the result, in one pass where that can be done; first refuse what cannot end.

    `outtype` is the type between the two. With `intermediate` the converted file is wanted too, and there are two
    steps. `warn` gets what people should know about the conversion.

    Raises:
        As `ggufkit.conversion.convert` and `ggufkit.quantization.quantize_all`.
    """
    if intermediate is not None and engine is Engine.DIRECT:
        raise UsageError(
            f"the direct engine has no file in between, and {intermediate} is wanted",
            hint="leave out --engine direct, or --keep-f16 (and convert for it)",
        )
    content = sorted(path for path in checkpoint.iterdir() if path.is_file() and not path.name.startswith("."))
    outputs = [output for _, output in jobs]
    for output in [*outputs, *([intermediate] if intermediate else [])]:
        check_output(output, inputs=content)
    two_steps = _TwoSteps(checkpoint, outtype, intermediate, outputs[0], options.threads, progress, warn)
    if not converts_natively(checkpoint):
        with two_steps.converted() as model:
            # Its conversion is repeated to know what is to be done; what was quantized from the same bytes is kept.
            return quantize_all(
                model, jobs, options, engine=engine, strict=strict, resume=resume, again=again, progress=progress
            )
    with open_skeleton(checkpoint, outtype) as skeleton:
        check_loads(skeleton.path, called=checkpoint)
        plans = [skeleton.plan(kind, options) for kind, _ in jobs]
        todo = prepare(plans, outputs, inputs=content, strict=strict)
        also: list[PlannedFile] = []
        if intermediate is None and _takes_one_pass(plans, engine):
            found = skeleton.conversion.checkpoint.quantization
            for warning in (*([f"found {found}"] if found else []), *skeleton.conversion.warnings):
                warn(warning)
            work = one_pass(skeleton, content)
        else:
            also = [PlannedFile(two_steps.path, skeleton.conversion.layout.size)]
            work = binary_engine(two_steps.converted)
        return carry_out(todo, work, content, also=also, resume=resume, again=again, progress=progress)


def one_pass(skeleton: Skeleton, content: Sequence[Path]) -> Work:
    """Make the work of a skeleton's plans: convert and quantize in one go. `content` are the checkpoint's files."""

    def write(
        jobs: Sequence[tuple[QuantizationPlan, PartialFile]], progress: Progress, stage: str
    ) -> Sequence[Collection[str]]:
        threads = jobs[0][0].options.threads or usable_cores()

        def give(sink: Sink) -> None:
            def take(target: TensorLayout, place: int, encoded: Array) -> None:
                sink.take(target.name, place - target.offset, encoded)

            def wants(target: TensorLayout, place: int) -> bool:
                return sink.wants(target.name, place - target.offset)

            stream(skeleton.conversion, take, threads=threads, progress=progress, stage=stage, wants=wants)

        return quantize_stream(read_header(skeleton.path), identity_of(content), jobs, give)

    return direct_engine(write)


def _takes_one_pass(plans: Sequence[QuantizationPlan], engine: Engine) -> bool:
    """Whether these plans can be done in one pass; with Engine.DIRECT, they must be."""
    if engine is Engine.BINARY:
        return False
    try:
        for planned in plans:
            refuse_what_only_the_binary_does(planned)
    except (UsageError, MissingDependencyError):
        if engine is Engine.DIRECT:
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class _TwoSteps:
    """The file between the steps: it is kept where it has a name of its own, else gone afterwards."""

    checkpoint: Path
    outtype: OutputType
    kept: Path | None
    output: Path
    threads: int | None
    progress: Progress
    warn: Callable[[str], None]

    @property
    def path(self) -> Path:
        """Where it lies: under a name by which a later run knows it for a leftover, or the one that was asked for."""
        hidden = f".{self.output.stem}-source-{self.outtype.name}.gguf.{os.getpid()}.ggufkit-part"
        return self.kept or self.output.with_name(hidden)

    @contextlib.contextmanager
    def converted(self) -> Iterator[Path]:
        try:
            result = convert(
                self.checkpoint,
                self.path,
                outtype=self.outtype,
                keep=Keep.NONE,  # llama-quantize takes no blocks of others
                threads=self.threads,
                progress=self.progress,
            )
            for warning in (*([f"found {result.quantization}"] if result.quantization else []), *result.warnings):
                self.warn(warning)
            yield self.path
        finally:
            if self.kept is None:
                self.path.unlink(missing_ok=True)
