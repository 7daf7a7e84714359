"""A checkpoint folder as the source of `quantize`: planned on a skeleton, then converted to F16 on the way."""

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.conversion import ConversionPlan
    from ggufkit.progress import Progress
    from ggufkit.quantization.plan import QuantizationPlan, QuantizeOptions
    from ggufkit.quantization.quantize import QuantizationResult
    from ggufkit.quantization.types import QuantizationType


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The header that the conversion would write, with a hole for the weights behind it: all that a plan needs."""

    path: Path
    size: int
    modules: Mapping[str, tuple[str, ...]]


@contextlib.contextmanager
def skeleton(checkpoint: Path) -> Iterator[Skeleton]:
    """Make the skeleton of a checkpoint without reading its weights; it is gone afterwards.

    Raises:
        UsageError: only llama.cpp's converter knows this checkpoint, so there is no header yet.
        CheckpointError: the checkpoint cannot be converted.
    """
    from ggufkit.conversion import OutputType, open_plan
    from ggufkit.errors import UsageError

    if not converts_natively(checkpoint):
        raise UsageError(
            "--dry-run needs a native conversion, and no spec of ours converts this checkpoint",
            hint=f"ggufkit convert {checkpoint}, then quantize the result",
        )
    with open_plan(checkpoint, OutputType.F16) as conversion, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{checkpoint.resolve().name}-F16.gguf"
        with path.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        yield Skeleton(path, conversion.layout.size, _modules(conversion))


def plans_of(
    checkpoint: Path, kinds: Sequence["QuantizationType"], options: "QuantizeOptions"
) -> list["QuantizationPlan"]:
    """Plan what quantizing a checkpoint would do, without reading its weights.

    Raises:
        As `skeleton` and `ggufkit.quantization.plan.plan`.
    """
    with skeleton(checkpoint) as model:
        return _plans(model, kinds, options)


def quantize_checkpoint(
    checkpoint: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    options: "QuantizeOptions",
    *,
    strict: bool,
    resume: bool,
    progress: "Progress",
) -> tuple["QuantizationResult", ...]:
    """Convert a checkpoint to F16 and quantize that; first refuse what cannot end well.

    The F16 file lies beside the first output, under a name by which a later run knows it for a leftover.

    Raises:
        As `ggufkit.conversion.convert` and `ggufkit.quantization.quantize`.
    """
    from ggufkit.files import PlannedFile, check_output
    from ggufkit.quantization.quantize import carry_out, prepare, quantize_all
    from ggufkit.quantization.source import check_loads

    content = sorted(path for path in checkpoint.iterdir() if path.is_file() and not path.name.startswith("."))
    kinds, outputs = [kind for kind, _ in jobs], [output for _, output in jobs]
    for output in outputs:
        check_output(output, inputs=content)
    intermediate = outputs[0].with_name(f".{outputs[0].stem}-source-F16.gguf.{os.getpid()}.ggufkit-part")

    @contextlib.contextmanager
    def converted() -> Iterator[Path]:
        from ggufkit.conversion import convert

        try:
            result = convert(checkpoint, intermediate, threads=options.threads, progress=progress)
            for warning in result.warnings:
                _output.warn(warning)
            yield intermediate
        finally:
            intermediate.unlink(missing_ok=True)

    if not converts_natively(checkpoint):
        with converted() as model:
            return quantize_all(model, jobs, options, strict=strict, progress=progress)
    with skeleton(checkpoint) as bones:
        check_loads(bones.path, called=checkpoint)
        todo = prepare(_plans(bones, kinds, options), outputs, inputs=content, strict=strict)
        also = [PlannedFile(intermediate, bones.size)]
        return carry_out(todo, converted, content, also=also, resume=resume, progress=progress)


def converts_natively(checkpoint: Path) -> bool:
    """Whether a spec of ours converts this checkpoint. Raises as `ggufkit.conversion.who_converts`."""
    from ggufkit.checkpoints import read_config
    from ggufkit.conversion import Converter, who_converts

    return who_converts(read_config(checkpoint), Converter.AUTO) is Converter.NATIVE


def _plans(
    model: Skeleton, kinds: Sequence["QuantizationType"], options: "QuantizeOptions"
) -> list["QuantizationPlan"]:
    from ggufkit.quantization.plan import plan

    return [plan(model.path, kind, replace(options, modules=model.modules)) for kind in kinds]


def _modules(conversion: "ConversionPlan") -> Mapping[str, tuple[str, ...]]:
    """Say which tensors each tensor of the checkpoint becomes."""
    modules: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for step in conversion.steps:
        for source in step.sources:
            modules[source.name] += tuple(target.name for target in step.targets)
    return modules
