"""Making an importance matrix with llama-imatrix: from a text, from other matrices, or both."""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError, LlamaCppError, OutputError, UsageError, VerificationError
from ggufkit.files import atomic_output, check_output
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import imatrix as tool
from ggufkit.progress import Progress, silent
from ggufkit.quantization.imatrix import coverage
from ggufkit.quantization.imatrix_content import Coverage, check_mergeable, reached, read_entries
from ggufkit.quantization.source import check_loads, read_model

_LONGEST_NAME = 100  # of the text, as it is recorded in the matrix and in every model made with it
_LEGACY_SUFFIX = ".dat"
_MOST_BYTES_PER_TOKEN = 8  # on average, of any text
_LONGER = "give more text with -f, add --self, or make the chunks smaller with --ctx-size"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A text to run the model on. `name` is recorded; `special` says that it holds the model's special tokens."""

    text: str
    name: str
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixOptions:
    """How a matrix is made. `chunks` of `ctx_size` tokens are read, all of the text if None.

    `process_output` measures the output layer too, which llama.cpp's authors advise against.
    """

    ctx_size: int = 512
    chunks: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    process_output: bool = False
    perplexity: bool = True


@dataclass(frozen=True, slots=True)
class ImatrixResult:
    """A matrix and what it reaches; `perplexity` is the model's on the text. `coverage` needs the model."""

    output: Path
    tensors: int
    chunks: int
    perplexity: float | None
    coverage: Coverage | None
    seconds: float


def make_imatrix(
    output: Path,
    *,
    model: Path | None = None,
    calibration: Calibration | None = None,
    merge: Sequence[Path] = (),
    options: ImatrixOptions | None = None,
    progress: Progress = silent,
) -> ImatrixResult:
    """Make an importance matrix; `progress` counts chunks. An output named `.dat` gets the older format.

    Raises:
        UsageError: there is neither a text nor a matrix, or a text and no model.
        InputError: the text is too short, or the matrices are of different models.
        OutputError: the output cannot be written, or was not, though llama-imatrix ended well.
        LlamaCppError: llama-imatrix failed.
        VerificationError: it ended well, but measured no tensor.
    """
    options = options or ImatrixOptions()
    if (calibration is None and not merge) or (calibration is not None and model is None):
        raise UsageError("an importance matrix needs a model and a text, or matrices to merge")
    if options.ctx_size < 1 or (options.chunks is not None and options.chunks < 1):
        raise UsageError("--ctx-size and --chunks must be positive")
    check_output(output, inputs=[*merge, *([model] if model else [])])
    if merge:
        check_mergeable(merge)
    headers = read_model(model) if model else []
    if model and calibration:
        check_loads(model)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, atomic_output(output) as temporary:
        text = ""
        if calibration:
            text = _file_name(calibration.name)
            (Path(folder) / text).write_text(calibration.text, encoding="utf-8")
        report = _run(
            tool.Options(
                output=temporary,
                model=model if calibration else None,
                text=text,
                folder=Path(folder),
                ctx_size=options.ctx_size,
                chunks=options.chunks,
                threads=options.threads or cpu.usable_cores(),
                gpu_layers=options.gpu_layers,
                process_output=options.process_output,
                parse_special=calibration.special if calibration else False,
                perplexity=options.perplexity,
                legacy=output.suffix == _LEGACY_SUFFIX,
                in_files=tuple(_without_comma(path, Path(folder)) for path in merge),
            ),
            lambda at: progress("Measuring importance", at.chunk, at.chunks, "steps"),
        )
        if report.failure:
            _fail(report, options)
        progress("Measuring importance", report.chunks, report.chunks, "steps")
        tensors = _check(temporary, output)
        reach = reached(read_entries(temporary), (t for h in headers for t in h.tensors)) if model else None
    return ImatrixResult(output, tensors, report.chunks, report.perplexity, reach, time.monotonic() - started)


def coverage_of(matrix: Path, model: Path) -> Coverage:
    """Compare a matrix with the tensors of a model. Raises as `read_entries` and `read_model`."""
    return reached(read_entries(matrix), (tensor for header in read_model(model) for tensor in header.tensors))


def _without_comma(path: Path, folder: Path) -> Path:
    """Give a file another name if llama-imatrix would take its own for two."""
    if "," not in str(path.absolute()):
        return path
    link = folder / f"{len(list(folder.iterdir()))}.gguf"
    link.symlink_to(path.absolute())
    return link


def _file_name(name: str) -> str:
    """Make a file name of what the text is called: it is what llama-imatrix records."""
    return re.sub(r"[^\w.+-]+", "_", name).lstrip("-.")[:_LONGEST_NAME] or "calibration.txt"


def _run(asked: tool.Options, on_progress: Callable[[tool.Progress], None]) -> tool.Report:
    """Run it; where it fails without a word, say so of a text that is too short, which is the usual reason."""
    try:
        return tool.run_imatrix(asked, on_progress)
    except tool.SilentError:
        size = (asked.folder / asked.text).stat().st_size if asked.folder and asked.text else 0
        if not 0 < size < 2 * asked.ctx_size * _MOST_BYTES_PER_TOKEN:
            raise
        raise InputError(
            f"the text has only {size:,} bytes; chunks of {asked.ctx_size} tokens need {2 * asked.ctx_size:,} tokens"
            " or more",
            hint=_LONGER,
        ) from None


def _fail(report: tool.Report, options: ImatrixOptions) -> None:
    if report.tokens is not None:
        raise InputError(
            f"the text has only {report.tokens:,} tokens; chunks of {options.ctx_size} need {2 * options.ctx_size:,} or"
            " more",
            hint=_LONGER,
        )
    raise LlamaCppError(f"llama-imatrix failed: {report.failure}")


def _check(written: Path, output: Path) -> int:
    """Read what was written; its status 0 is no proof. Returns the number of tensors."""
    try:
        count = len(coverage(written, any_length=True))
    except (GgufFileError, InputError) as error:
        # It says nothing of a file that it could not write.
        told = f"llama-imatrix ended well, but {output} would be none: {error}"
        raise OutputError(told, hint="is the disk full, or does it fail?") from None
    if not count:
        raise VerificationError(
            f"llama-imatrix ended well, but measured no tensor for {output}",
            hint="is the model one that generates or embeds text?",
        )
    return count
