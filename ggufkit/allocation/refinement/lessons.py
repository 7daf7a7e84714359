"""What refining learns from, the same for all sizes of a model: text, its own writing, and its checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ggufkit.allocation.chunks import chunks_of, chunks_wanted
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.refinement.learning_text import MOST_CHUNKS, own_chunks, with_own_writing
from ggufkit.allocation.refinement.output_moments import MOST_CHUNKS as MOST_READ_BACKWARDS
from ggufkit.allocation.refinement.output_moments import output_moments
from ggufkit.allocation.refinement.own_writing import own_writing
from ggufkit.allocation.refinement.refine import is_in_order
from ggufkit.allocation.refinement.rounding import compiled
from ggufkit.allocation.texts import Dealt, Use
from ggufkit.allocation.weights import Floats
from ggufkit.errors import InputError, MissingDependencyError, UnsafeError, UsageError
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.progress import Progress
from ggufkit.quantization.direct import library

_LENGTH_BACKWARDS = 512  # tokens at most of a chunk: gradients of longer ones take much memory, and say no more


@dataclass(frozen=True, slots=True)
class Lessons:
    """The chunks that a model reads; and of some matrices, files with what errors of their outputs do."""

    chunks: Chunks
    outputs: Mapping[str, Path] = field(default_factory=dict)


def check_text(text: str) -> None:
    """Refuse to refine where all text chooses the types. Raises UsageError."""
    if not text:
        raise UsageError(
            "--refine needs text to learn from, and all that is given chooses the types", hint="give some with -f"
        )


def tokens_read_backwards(weights: int, length: int) -> int:
    """Return how many tokens the checkpoint of a model reads, at most, where chunks have `length`."""
    length = min(length, _LENGTH_BACKWARDS)
    return chunks_wanted(MOST_READ_BACKWARDS, length) * length if is_in_order(weights) else 0


def lessons_for(
    model: Model,
    options: OptimizeOptions,
    texts: Dealt,
    folder: Path,
    progress: Progress,
    warn: Callable[[str], None],
    scaled: Equalization | None = None,
) -> Lessons:
    """Prepare what a model learns from: calibration text; small models also write, and are read backwards.

    That takes the checkpoint, and torch. Without, `warn` is told, and rows are refined independently of each other; and
    also where refining will take long for want of numba.

    `model` is that of the checkpoint; where an equalized one will be refined, `scaled` says what was scaled.

    Raises:
        UsageError: there is no text.
        LlamaCppError: llama.cpp failed.
    """
    check_text(texts.calibration)
    if not compiled():
        warn("refining takes longer without numba, which is missing or does not work: pip install -U numba")
    chunks = chunks_of(
        texts, Use.CALIBRATION, model.headers[0], options.running, length=options.chunk_tokens, most=MOST_CHUNKS
    )
    if not is_in_order(model.weights):
        return Lessons(chunks)
    own = own_writing(model.source, own_chunks(chunks), chunks, options.running, folder, progress)
    chunks = with_own_writing(chunks, own)
    if options.original is None:
        return Lessons(chunks)
    try:
        outputs = output_moments(
            options.original,
            model.headers,
            _read_backwards(chunks),
            library(),
            folder / "outputs",
            progress,
            threads=options.running.threads,
        )
    except (InputError, MissingDependencyError, UnsafeError) as error:
        warn(f"what errors of outputs do is not known, which would make refining better: {error}")
        return Lessons(chunks)
    rows = scaled.rows if scaled is not None else {}
    for name in outputs.keys() & rows.keys():
        _scale(outputs[name], rows[name])
    return Lessons(chunks, outputs)


def _scale(path: Path, rows: Floats) -> None:
    """Make a file of output moments, [n_out, n_out], those of outputs that have grown: gradients shrink."""
    np.save(path, np.load(path) / np.outer(rows, rows))


def _read_backwards(chunks: Chunks) -> list[tuple[int, ...]]:
    """Choose what the checkpoint reads: some of all chunks, evenly taken."""
    length = min(chunks.length, _LENGTH_BACKWARDS)
    pieces = [
        tuple(chunk[start : start + length])
        for chunk in chunks.tokens
        for start in range(0, chunks.length - length + 1, length)
    ]
    read = min(len(pieces), chunks_wanted(MOST_READ_BACKWARDS, length))
    return [pieces[number * len(pieces) // read] for number in range(read)]
