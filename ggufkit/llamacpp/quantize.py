"""The program llama-quantize: its command line, what it prints, and one call that runs it."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.find import find
from ggufkit.llamacpp.run import run

TOOL = "llama-quantize"


@dataclass(frozen=True, slots=True)
class Options:
    """One call of llama-quantize; without an `output` it only says what it would do (`--dry-run`).

    `tensor_types` are pairs of a regular expression, searched for in a tensor's name, and a tensor type; the first
    that matches counts. `overrides` are metadata keys with a value in llama.cpp's notation (`int:32`).
    """

    source: Path
    output: Path | None
    type: str
    threads: int
    imatrix: Path | None = None
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    allow_requantize: bool = False
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    prune_layers: tuple[int, ...] = ()
    keep_split: bool = False
    max_buffer_size: int | None = None
    overrides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TensorLine:
    """What the program says about one tensor; `to` is None where it stays as it is (or the line does not say)."""

    name: str
    shape: tuple[int, ...]
    was: str
    to: str | None


@dataclass(frozen=True, slots=True)
class FallbackLine:
    """A tensor whose row length does not divide into blocks of the wanted type."""

    name: str
    columns: int
    wanted: str
    got: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one run printed: its tensors in the order of the output, and why it failed, in its own words."""

    tensors: tuple[TensorLine, ...]
    fallbacks: tuple[FallbackLine, ...]
    needs_imatrix: bool
    imatrix_dataset: str | None
    imatrix_chunks: int
    failure: str | None


@dataclass(frozen=True, slots=True)
class TypeLine:
    """One line of the list of types in the program's help."""

    number: int | None
    name: str
    description: str


def argv(tool: Path, options: Options) -> list[str]:
    """Build the command line."""
    flags = {
        "--dry-run": options.output is None,
        "--allow-requantize": options.allow_requantize,
        "--pure": options.pure,
        "--leave-output-tensor": options.leave_output_tensor,
        "--keep-split": options.keep_split,
    }
    values = [
        ("--imatrix", options.imatrix),
        *(("--include-weights", part) for part in options.include_weights),
        *(("--exclude-weights", part) for part in options.exclude_weights),
        ("--output-tensor-type", options.output_tensor_type),
        ("--token-embedding-type", options.token_embedding_type),
        *(("--tensor-type", f"{pattern}={name}") for pattern, name in options.tensor_types),
        ("--max-buffer-size", options.max_buffer_size),
        ("--prune-layers", ",".join(map(str, options.prune_layers)) or None),
        *(("--override-kv", f"{key}={value}") for key, value in options.overrides),
    ]
    arguments = [str(tool), *(flag for flag, wanted in flags.items() if wanted)]
    for flag, value in values:
        if value is not None:
            arguments += [flag, str(value)]
    # Absolute: a relative name could begin like an option, and an output named `4-bits` would be read as type 4.
    arguments += [str(path.absolute()) for path in (options.source, options.output) if path]
    return [*arguments, options.type, str(options.threads)]


_TENSOR = re.compile(
    r"\[ *(?P<index>\d+)/ *(?P<total>\d+)\] (?P<name>.+?) +- \[(?P<shape>[ \d,]+)\], type = +(?P<was>\w+),"
    r"(?P<rest>.*)"
)
_TARGET = re.compile(r"converting to (\w+)|size =.* -> .* \((\w+)\)$")
_FALLBACK = re.compile(
    r"warning: (?P<name>.+?) +- ncols +(?P<columns>\d+) not divisible by +\d+ \(required for type +(?P<wanted>\w+)\)"
    r".*-> falling back to +(?P<got>\w+)"
)
_DATASETS = re.compile(r"load_imatrix: imatrix datasets=\['(.*?)'[,\]]")
_CHUNKS = re.compile(r"load_imatrix: loaded \d+ importance matrix entries from .* computed on (-?\d+) chunks")
_FAILURES = (
    re.compile(r"llama_model_quantize: failed to quantize: (.+)"),
    re.compile(r"load_imatrix: (failed to load imatrix .+|missing imatrix metadata .+)"),
)
_TYPE = re.compile(r"^ +(?:(\d+)  or  )?(\w+) +: *(.+)$")


def parse(lines: Iterable[str]) -> Report:
    """Read what the program printed; lines that say nothing to us are passed over."""
    tensors: list[TensorLine] = []
    fallbacks: list[FallbackLine] = []
    needs_imatrix, dataset, chunks, failure = False, None, 0, None
    for line in lines:
        # A failure comes first: it may end a line that began with a tensor.
        if failed := next((match for pattern in _FAILURES if (match := pattern.search(line))), None):
            failure = failed[1].strip()
        elif found := _TENSOR.match(line):
            target = _TARGET.search(found["rest"])
            shape = tuple(int(extent) for extent in found["shape"].split(","))
            tensors.append(TensorLine(found["name"], shape, found["was"], target and (target[1] or target[2])))
        elif found := _FALLBACK.match(line):
            fallbacks.append(FallbackLine(found["name"], int(found["columns"]), found["wanted"], found["got"]))
        elif "will require an imatrix" in line:
            needs_imatrix = True
        elif found := _DATASETS.match(line):
            dataset = found[1]
        elif found := _CHUNKS.match(line):
            chunks = int(found[1])
    return Report(tuple(tensors), tuple(fallbacks), needs_imatrix, dataset, chunks, failure)


def parse_progress(line: str) -> tuple[int, int] | None:
    """Return (done, total) in tensors for a line about a tensor, which is complete when that tensor is written."""
    found = _TENSOR.match(line)
    return (int(found["index"]), int(found["total"])) if found else None


def parse_types(text: str) -> tuple[TypeLine, ...]:
    """Read the list of types at the end of the program's help."""
    _, _, table = text.partition("allowed quantization types")
    return tuple(
        TypeLine(int(found[1]) if found[1] else None, found[2], found[3])
        for line in table.splitlines()
        if (found := _TYPE.match(line))
    )


def quantize(options: Options, on_tensor: Callable[[int, int], None] | None = None) -> Report:
    """Run llama-quantize; `on_tensor` is called with (done, total) as tensors are finished.

    A run that the program itself ends as failed is no exception here: `Report.failure` says what it said.

    Raises:
        LlamaCppError: it was ended by a signal, or without saying why.
        MissingDependencyError: llama.cpp is not built.
    """
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if on_tensor and (progress := parse_progress(line)):
            on_tensor(*progress)

    try:
        death_signal = signal.SIGKILL if options.output else None
        run(argv(find().tool(TOOL), options), on_line=take, death_signal=death_signal)
    except LlamaCppError:
        report = parse(lines)
        if report.failure is None:
            raise
        return report
    return parse(lines)


def offered() -> tuple[TypeLine, ...]:
    """Ask the program which types it knows.

    Raises:
        MissingDependencyError: llama.cpp is not built.
        LlamaCppError: it printed no list.
    """
    lines: list[str] = []
    with contextlib.suppress(LlamaCppError):  # it ends with status 1 after its help
        run([find().tool(TOOL), "--help"], on_line=lines.append)
    types = parse_types("\n".join(lines))
    if not types:
        raise LlamaCppError(f"{TOOL} --help lists no types", hint="ggufkit doctor")
    return types
