"""`ggufkit quantize --imatrix auto`: make the importance matrix that a type wants, or take the one made before."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output
from ggufkit.cli.imatrix import coverage_lines, text_for

if TYPE_CHECKING:
    from ggufkit.progress import Progress
    from ggufkit.quantization.types import QuantizationType

AUTO = "auto"


def matrix_for(
    source: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    files: Sequence[Path],
    *,
    threads: int | None,
    dry_run: bool,
    quiet: bool,
    progress: "Progress",
) -> Path | None:
    """Return a matrix for these jobs, None if no type gains from one. It stays beside the first output.

    Without `files` the model writes the text itself.

    Raises:
        UsageError: nothing is to be written, and there is no matrix yet.
        As `ggufkit.quantization.make_imatrix.make_imatrix` and, for a checkpoint, `ggufkit.conversion.convert`.
    """
    from ggufkit.errors import UsageError
    from ggufkit.quantization.make_imatrix import ImatrixOptions, make_imatrix

    wanting = [kind.name for kind, _ in jobs if kind.gains_from_imatrix]
    if not wanting:
        _tell("no importance matrix is made: none of these types gains from one", quiet=quiet)
        return None
    matrix = _beside(source, jobs[0][1])
    if matrix.exists() and _is_newer(matrix, [source, *files]):
        _tell(f"using {matrix}, which an earlier run made", quiet=quiet)
        return matrix
    if dry_run:
        raise UsageError(
            f"there is no importance matrix yet for {', '.join(wanting)}, and --dry-run makes none",
            hint=f"ggufkit imatrix {source} --self -o {matrix}",
        )
    with _as_gguf(source, matrix, threads, progress) as model:
        options = ImatrixOptions(threads=threads)
        text, options = text_for(model, files, options, seed=0, write_own=not files, quiet=quiet, progress=progress)
        result = make_imatrix(matrix, model=model, calibration=text, options=options, progress=progress)
    _tell("; ".join([f"made {matrix} for {', '.join(wanting)}", *coverage_lines(result.coverage)]), quiet=quiet)
    return matrix


def _beside(source: Path, output: Path) -> Path:
    """Name the matrix after the model, not after a type: all types share it."""
    from ggufkit.quantization.names import output_name
    from ggufkit.quantization.types import quantization_type

    whole = output_name(source.resolve().name if source.is_dir() else source.name, quantization_type("F16"))
    return output.with_name(whole.removesuffix("F16.gguf") + "imatrix.gguf")


def _is_newer(matrix: Path, than: Sequence[Path]) -> bool:
    made = matrix.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns < made for path in than if path.exists())


@contextlib.contextmanager
def _as_gguf(source: Path, beside: Path, threads: int | None, progress: "Progress") -> Iterator[Path]:
    """Yield a GGUF file; a checkpoint is converted for it, and the file is gone afterwards."""
    if not source.is_dir():
        yield source
        return
    from ggufkit.conversion import convert

    model = beside.with_name(f".{beside.stem}-source.gguf.{os.getpid()}.ggufkit-part")
    try:
        convert(source, model, threads=threads, progress=progress)
        yield model
    finally:
        model.unlink(missing_ok=True)


def _tell(text: str, *, quiet: bool) -> None:
    if not quiet:
        _output.note(text)
