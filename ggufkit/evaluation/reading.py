"""The part of an evaluation that reads texts: cut into chunks, compared with calibration texts, read by every model."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.counting import counted
from ggufkit.errors import InputError
from ggufkit.evaluation.calibration import CalibrationCheck, check_calibration
from ggufkit.evaluation.head_start import HeadStart
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.logits_file import estimated_bytes
from ggufkit.evaluation.likelihood.passes import Reading
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks, is_utf8
from ggufkit.evaluation.models import vocabulary_size
from ggufkit.evaluation.options import EvaluationOptions
from ggufkit.files import PlannedFile, atomic_output, check_space
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.progress import Progress


def cut(
    base: Path,
    header: GgufHeader,
    texts: Sequence[Path],
    folder: Path,
    options: EvaluationOptions,
    note: Callable[[str], None],
    begun: HeadStart | None = None,
) -> Chunks:
    """Cut the texts into the chunks that are read, by the base's vocabulary; `note` gets what reading takes.

    Where it is `begun` already, with the same files, that is waited for.

    Raises:
        InputError: a text is too short, or the base has no vocabulary.
        OutputError: the disk has no room for the log-probabilities.
        LlamaCppError: llama.cpp failed.
    """
    files = begun.tokens_of(base, texts, options.running) if begun else None
    tokens = passes.taken(files) if files is not None else passes.tokenize(base, texts, folder, options.running)
    chunks = cut_into_chunks(texts, tokens, vocabulary_size(header), length=options.chunk_tokens, chunks=options.chunks)
    _say_what_it_takes(chunks, folder, note)
    return chunks


def compare_with_calibration(
    base: Path,
    chunks: Chunks | None,
    calibration: Sequence[Path],
    not_here: Mapping[str, str],
    folder: Path,
    options: EvaluationOptions,
    note: Callable[[str], None],
) -> CalibrationCheck:
    """See whether the texts were used before; say so at once, for reading takes long."""
    if chunks is None:
        return CalibrationCheck()

    def tokenize(texts: Sequence[Path]) -> Sequence[NDArray[np.int32]]:
        return passes.tokenize(base, texts, folder, options.running)

    checked = check_calibration(chunks, calibration, not_here, folder, tokenize)
    for warning in checked.warnings:
        note(f"warning: {warning}")
    for remark in checked.remarks:
        note(remark)
    return checked


def read(
    models: Sequence[tuple[Path, str]], chunks: Chunks, folder: Path, options: EvaluationOptions, progress: Progress
) -> list[Reading]:
    """Let the base read, the first of `models`, then the others; in the result it comes first too."""
    (base, _), *others = models
    first = passes.read_base(base, chunks, folder, options.running, progress)
    return [
        first,
        *(passes.read_against(model, key, chunks, folder, options.running, progress) for model, key in others),
    ]


def keep(logits: Path, output: Path) -> None:
    """Give the file its final name, whole or not at all: it may lie on another disk than the cache."""
    nearby = logits.stat().st_dev == output.absolute().parent.stat().st_dev
    with atomic_output(output, size=0 if nearby else logits.stat().st_size) as temporary:
        if nearby:
            shutil.copymode(temporary, logits)
            logits.replace(temporary)
        else:
            shutil.copyfile(logits, temporary)


def check_texts(texts: Sequence[Path]) -> None:
    """Refuse what is no file. Raises InputError."""
    for text in texts:
        if not text.is_file():
            raise InputError(f"no such text: {text}")


def _say_what_it_takes(chunks: Chunks, folder: Path, note: Callable[[str], None]) -> None:
    needed = estimated_bytes(chunks.vocabulary_size, chunks.length, len(chunks.tokens))
    there = sum(path.stat().st_size for path in folder.glob("base.logits"))
    check_space([PlannedFile(folder / "base.logits", max(0, needed - there))])
    error = 3.2 / (chunks.scored * len(chunks.tokens)) ** 0.5
    count = len(chunks.tokens)
    note(
        f"{counted(count, 'chunk')} of {chunks.length} tokens, of which"
        f" {chunks.scored * count:,} are scored: the perplexity is known to about {error:.1%};"
        f" the base's log-probabilities take {max(0.1, needed / 1e6):,.1f} MB on disk meanwhile"
    )
    for domain in chunks.domains:
        if not is_utf8(domain.path):
            note(f"warning: {domain.path} is not UTF-8: what is no character in it is read as U+FFFD")
