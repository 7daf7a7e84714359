"""The program llama-imatrix: its command line, what it prints, and one call that runs it."""

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.find import find
from ggufkit.llamacpp.run import run

TOOL = "llama-imatrix"
_ATTEMPTS = 3
_LEAST_BATCH = 512  # tokens computed together: enough for the matrix products, little memory for the logits


@dataclass(frozen=True, slots=True)
class Options:
    """One call of llama-imatrix; without a `model` it only merges `in_files`.

    `text` is read by that name in `folder`, and the name is recorded in the matrix. `chunks` None means all. The paths
    of `in_files` must not hold commas.
    """

    output: Path
    model: Path | None = None
    text: str = ""
    folder: Path | None = None
    ctx_size: int = 512
    chunks: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    process_output: bool = False
    parse_special: bool = False
    perplexity: bool = True
    legacy: bool = False
    in_files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: `chunk` of `chunks`, and the perplexity so far (None while it is not computed)."""

    chunk: int
    chunks: int
    perplexity: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What one run printed. `partial` are tensors with experts that were never reached, with the reached fraction."""

    chunks: int
    perplexity: float | None
    tokens: int | None  # of a text that is too short
    partial: tuple[tuple[str, float], ...]
    failure: str | None


def argv(tool: Path, options: Options) -> list[str]:
    """Build the command line."""
    arguments = [str(tool), "-o", str(options.output.absolute())]
    arguments += ["--output-format", "dat" if options.legacy else "gguf", "-c", str(options.ctx_size)]
    if options.in_files:
        arguments += ["--in-file", ",".join(str(path.absolute()) for path in options.in_files)]
    if options.model is None:
        # It insists on a model, and never opens it when there is no text.
        return [*arguments, "-m", str(options.in_files[0].absolute())]
    batch = max(1, _LEAST_BATCH // options.ctx_size) * options.ctx_size
    arguments += ["-m", str(options.model.absolute()), "-f", options.text, "-b", str(batch), "-ub", str(_LEAST_BATCH)]
    values = (("--chunks", options.chunks), ("-t", options.threads), ("-ngl", options.gpu_layers))
    arguments += [text for flag, value in values if value is not None for text in (flag, str(value))]
    flags = {
        "--process-output": options.process_output,
        "--parse-special": options.parse_special,
        "--no-ppl": not options.perplexity,
    }
    return [*arguments, *(flag for flag, wanted in flags.items() if wanted)]


_TOTAL = re.compile(r"computing over (\d+) chunks")
_CHUNK = re.compile(r"\[(\d+)\]([\d.]+|nan|inf)")
_FINAL = re.compile(r"Final estimate: PPL = ([\d.]+)")
_TOKENS = re.compile(r"tokenizes to only (\d+) tokens")
_PARTIAL = re.compile(r"entry '\s*(\S+)' has partial data \(([\d.]+)%\)")
_FAILURES = (
    re.compile(r"(you need at least \d+ tokens.*)"),
    re.compile(r"(mismatched (?:sums|counts) size for .*)"),
    re.compile(r"(inconsistent (?:size|expert count) for .*)"),
    re.compile(r"(non-finite values detected in .*)"),
    re.compile(r"(failed to load .*)"),
    re.compile(r"(failed to eval)"),
    re.compile(r"error loading model: (.*)"),
)


def parse(pieces: Iterable[str]) -> Report:
    """Read what the program printed, cut at line ends and commas."""
    chunks, perplexity, tokens, failure = 0, None, None, None
    partial: dict[str, float] = {}
    for piece in pieces:
        if found := next((match for pattern in _FAILURES if (match := pattern.search(piece))), None):
            failure = failure or found[1].strip()
        if found := _TOTAL.search(piece):
            chunks = int(found[1])
        elif found := _FINAL.search(piece) or _CHUNK.search(piece):
            perplexity = float(found[found.lastindex or 1])  # of the last chunk, should the end be lost
        elif found := _TOKENS.search(piece):
            tokens = int(found[1])
        elif found := _PARTIAL.search(piece):
            partial[found[1]] = float(found[2]) / 100
    return Report(chunks, perplexity, tokens, tuple(partial.items()), failure)


def run_imatrix(options: Options, on_progress: Callable[[Progress], None] | None = None) -> Report:
    """Run llama-imatrix. A run that the program itself ends as failed is no exception: `Report.failure` says why.

    Raises:
        SilentError: it failed before its first chunk, and did not say why.
        LlamaCppError: it was ended by a signal, or without saying why.
        MissingDependencyError: llama.cpp is not built, or without this program.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(SilentError):
            return _run_once(options, on_progress)
    return _run_once(options, on_progress)


class SilentError(LlamaCppError):
    """It ended as failed and did not say why: its logger sometimes loses the last lines, so it is asked again."""


def _run_once(options: Options, on_progress: Callable[[Progress], None] | None) -> Report:
    pieces: list[str] = []
    total = 0

    def take(piece: str) -> None:
        nonlocal total
        pieces.append(piece)
        if found := _TOTAL.search(piece):
            total = int(found[1])
            if on_progress:
                on_progress(Progress(0, total, None))
        elif on_progress and (found := _CHUNK.search(piece)):
            on_progress(Progress(int(found[1]), total, float(found[2])))

    try:
        # The figures of the chunks come on one line, with commas between them.
        run(argv(find().tool(TOOL), options), on_line=take, cwd=options.folder, line_ends=b"\r\n,")
    except LlamaCppError as error:
        report = parse(pieces)
        if report.failure is None and total == 0 and "ended with status" in str(error):
            raise SilentError(str(error), hint=error.hint) from None
        if report.failure is None:
            raise
        return report
    return parse(pieces)
