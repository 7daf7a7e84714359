"""A checkpoint folder as the source of `quantize`: planned on a skeleton, then converted to F16 on the way."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.progress import Progress
    from ggufkit.quantization.plan import QuantizationPlan, QuantizeOptions
    from ggufkit.quantization.types import QuantizationType


def plans_of(
    checkpoint: Path, kinds: Sequence["QuantizationType"], options: "QuantizeOptions"
) -> list["QuantizationPlan"]:
    """Plan what quantizing a checkpoint would do, without reading its weights.

    The header that the conversion would write, with a hole for the weights behind it, is all that a plan needs.

    Raises:
        UsageError: only llama.cpp's converter knows this checkpoint, so there is no header yet.
        CheckpointError: the checkpoint cannot be converted.
        As `ggufkit.quantization.plan.plan`.
    """
    from ggufkit.conversion import OutputType, open_plan
    from ggufkit.errors import UsageError
    from ggufkit.quantization.plan import plan

    if not converts_natively(checkpoint):
        raise UsageError(
            "--dry-run needs a native conversion, and no spec of ours converts this checkpoint",
            hint=f"ggufkit convert {checkpoint}, then quantize the result",
        )
    with open_plan(checkpoint, OutputType.F16) as conversion, tempfile.TemporaryDirectory() as folder:
        skeleton = Path(folder) / f"{checkpoint.resolve().name}-F16.gguf"
        with skeleton.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        return [plan(skeleton, kind, options) for kind in kinds]


@contextlib.contextmanager
def converted(
    checkpoint: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    options: "QuantizeOptions",
    progress: "Progress",
) -> Iterator[Path]:
    """Yield an F16 GGUF file made of a checkpoint, which is gone afterwards; first refuse what cannot end well.

    It lies beside the first output under one fixed hidden name, so that a run after a crash replaces what was left.

    Raises:
        As `ggufkit.conversion.convert` and `ggufkit.quantization.quantize`.
    """
    from ggufkit.conversion import convert
    from ggufkit.files import PlannedFile, check_output, check_space

    for _, output in jobs:
        check_output(output, inputs=list(checkpoint.iterdir()))
    first = jobs[0][1]
    intermediate = first.with_name(f".{first.stem}-source-F16.gguf")
    if converts_natively(checkpoint):
        plans = plans_of(checkpoint, [kind for kind, _ in jobs], options)
        outputs = [PlannedFile(output, plan.bytes_after) for (_, output), plan in zip(jobs, plans, strict=True)]
        check_space([PlannedFile(intermediate, plans[0].bytes_before), *outputs])
    try:
        result = convert(checkpoint, intermediate, threads=options.threads, progress=progress)
        for warning in result.warnings:
            _output.warn(warning)
        yield intermediate
    finally:
        intermediate.unlink(missing_ok=True)


def converts_natively(checkpoint: Path) -> bool:
    """Whether a spec of ours converts this checkpoint. Raises as `ggufkit.conversion.who_converts`."""
    from ggufkit.checkpoints import read_config
    from ggufkit.conversion import Converter, who_converts

    return who_converts(read_config(checkpoint), Converter.AUTO) is Converter.NATIVE
