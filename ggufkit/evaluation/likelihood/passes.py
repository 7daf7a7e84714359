"""Letting models read the chunks, each in a process of its own; what an earlier run has done is not done again."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.child_process import ask
from ggufkit.evaluation.likelihood.logits_file import LogitsFile
from ggufkit.evaluation.likelihood.request import DONE, Request, Task
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.scores import COLUMNS
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.evaluation.likelihood.tokenizing import READER, token_files
from ggufkit.progress import Progress

__all__ = ["Reading", "Running", "read_against", "read_base", "taken", "tokenize"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one model's pass. `scores` is float32 [chunks, scored, n]: nll alone, or `COLUMNS`.

    Speeds are of this run, in tokens per second and seconds; None where all of it had been there from an earlier one.
    """

    scores: NDArray[np.float32]
    tokens_per_second: float | None
    load_seconds: float | None
    peak_bytes: int | None
    seconds: float | None


def tokenize(
    model: Path, texts: Sequence[Path], folder: Path, running: Running, *, parse_special: bool = False
) -> list[NDArray[np.int32]]:
    """Cut texts into tokens by llama.cpp, as llama-perplexity does: BOS in front if the model wants it.

    With `parse_special`, for rendered chats, the names of special tokens become those tokens.

    Raises:
        As the engine; LlamaCppError when it died.
    """
    return taken(token_files(model, texts, folder, running, parse_special=parse_special))


def taken(files: Sequence[Path]) -> list[NDArray[np.int32]]:
    """Read files of tokens, and remove them."""
    found = []
    for path in files:
        found.append(np.fromfile(path, "<i4"))
        path.unlink()
    return found


def read_base(model: Path, chunks: Chunks, folder: Path, running: Running, progress: Progress) -> Reading:
    """Let the base model read; its log-probabilities come into `folder`, as `base_file` names it.

    Raises:
        As the engine; LlamaCppError when it died.
    """
    base = base_file(folder, chunks)
    scored = base.scored
    nll = folder / "base.nll"
    done = min(_whole(nll, 4 * scored), max(0, _whole(base.path, base.chunk_bytes, base.data_offset)))
    _cut(nll, done * 4 * scored)
    _cut(base.path, base.data_offset + done * base.chunk_bytes if done else 0)
    return _read(Task.BASE, model, chunks, folder, nll, done, 1, running, progress)


def read_against(model: Path, name: str, chunks: Chunks, folder: Path, running: Running, progress: Progress) -> Reading:
    """Let a model read, and compare it with the base; its scores are kept in `folder` under `name`.

    Raises:
        As the engine; LlamaCppError when it died.
    """
    scores = folder / f"{name}.scores"
    size = 4 * base_file(folder, chunks).scored * len(COLUMNS)
    done = _whole(scores, size)
    _cut(scores, done * size)
    return _read(Task.COMPARE, model, chunks, folder, scores, done, len(COLUMNS), running, progress)


def base_file(folder: Path, chunks: Chunks) -> LogitsFile:
    """Where the base model's log-probabilities lie, and how."""
    return LogitsFile(folder / "base.logits", chunks.length, chunks.vocabulary_size, len(chunks.tokens))


def _read(
    task: Task,
    model: Path,
    chunks: Chunks,
    folder: Path,
    scores: Path,
    done: int,
    columns: int,
    running: Running,
    progress: Progress,
) -> Reading:
    base, count = base_file(folder, chunks), len(chunks.tokens)
    report: dict[str, Any] = {}
    if done < count:
        tokens = folder / "chunks.i32"
        np.asarray(chunks.tokens, "<i4").tofile(tokens)
        stage = f"Reading with {model.name}"
        progress(stage, done, count, "steps")
        request = Request(
            task=task,
            model=str(model.absolute()),
            running=running,
            tokens=str(tokens),
            chunk_tokens=chunks.length,
            chunks=count,
            start=done,
            base=str(base.path),
            scores=str(scores),
            report=str(folder / f"{scores.name}.json"),
        )

        def on_line(line: str) -> None:
            if line.startswith(DONE):
                progress(stage, int(line.removeprefix(DONE)), count, "steps")

        _ask(folder / f"{scores.name}.request.json", request, on_line)
        report = json.loads(Path(request.report).read_text())
    found = np.fromfile(scores, "<f4").reshape(count, base.scored, columns)
    return Reading(
        found,
        report["tokens"] / report["seconds"] if report else None,
        report.get("load_seconds"),
        report.get("peak_bytes"),
        report.get("seconds"),
    )


def _ask(path: Path, request: Request, on_line: Callable[[str], None] | None = None) -> None:
    request.write(path)
    ask(READER, path, request.model, on_line)


def _whole(path: Path, size: int, offset: int = 0) -> int:
    """How many pieces of `size` bytes a file holds behind `offset`."""
    try:
        return max(0, path.stat().st_size - offset) // size
    except OSError:
        return 0


def _cut(path: Path, size: int) -> None:
    if path.exists():
        os.truncate(path, size)
