"""A process of its own that reads chunks with one model: it may die of a broken model, and only it.

The request (JSON) names the model, how it runs, and the files: `tokens` (int32, the chunks one after the other), the
`base` file of log-probabilities, and `scores` (float32). What is done is appended chunk by chunk, so that a run which
was killed goes on with the next one; `start` is the first that is lacking. Each finished chunk is told on stdout.
"""

import json
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.child_process import refusing
from ggufkit.evaluation.likelihood.logits_file import LogitsFile
from ggufkit.evaluation.likelihood.request import DONE, Request, Task
from ggufkit.evaluation.likelihood.scores import score_against, score_base
from ggufkit.peak_memory import peak_memory


def _tokenize(request: Request) -> None:
    from ggufkit.inference.chunk_reader import ChunkReader  # here, for who only asks has no use for an engine

    with ChunkReader.open(Path(request.model), request.running.options(vocabulary_only=True)) as reader:
        for number, path in enumerate(request.texts):
            text = Path(path).read_text(encoding="utf-8", errors="replace")
            tokens = reader.tokenize(text, add_special=True, parse_special=request.parse_special)
            np.asarray(tokens, "<i4").tofile(f"{request.tokens}.{number}")


def _read(request: Request) -> None:
    from ggufkit.inference.chunk_reader import ChunkReader

    chunks = np.fromfile(request.tokens, "<i4").reshape(request.chunks, request.chunk_tokens)
    path, options = Path(request.model), request.running.options()
    with ChunkReader.reading(path, request.chunk_tokens, options) as reader, ExitStack() as stack:
        base = LogitsFile(Path(request.base), request.chunk_tokens, reader.vocabulary_size, request.chunks)
        scores = stack.enter_context(Path(request.scores).open("ab"))
        rows = stack.enter_context(base.path.open("ab" if request.task == Task.BASE else "rb"))
        if request.task == Task.BASE and request.start == 0:
            rows.write(base.header(chunks.tolist()))
        started = time.monotonic()
        todo = chunks[request.start :].tolist()

        def score(
            index: int, logits: NDArray[np.float32], threads: int
        ) -> tuple[NDArray[np.uint16] | None, NDArray[np.float32]]:
            number = request.start + index
            next_tokens, logits = chunks[number][base.chunk_tokens // 2 + 1 :], logits[: base.scored]
            if request.task == Task.BASE:
                found = score_base(logits, next_tokens, threads=threads)
                return found.rows, found.nll
            there = base.rows(rows, number)
            return None, score_against(logits, next_tokens, there, threads=threads)

        results = stack.enter_context(closing(reader.each(todo, score)))
        for number, (encoded, scored) in enumerate(results, request.start):
            if encoded is not None:
                rows.write(encoded.data)
                rows.flush()
            scores.write(scored.astype("<f4").tobytes())
            scores.flush()
            sys.stdout.write(f"{DONE} {number + 1}\n")
            sys.stdout.flush()
        seconds = time.monotonic() - started
        report = {
            "tokens": len(todo) * request.chunk_tokens,
            "seconds": seconds,
            "load_seconds": reader.load_seconds,
            "peak_bytes": peak_memory(),
            "side_by_side": reader.side_by_side,
            "placement": reader.placement.options.gpu_layers,
        }
    Path(request.report).write_text(json.dumps(report))


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        request = Request.read(path)
        if request.task == Task.TOKENIZE:
            _tokenize(request)
        else:
            _read(request)
