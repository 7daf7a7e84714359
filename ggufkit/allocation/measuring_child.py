"""A process of its own that overwrites tensors of a scratch copy with what another type makes of them, and measures.

The request (JSON) names the scratch copy and the model that it is a copy of (all parts), the chunks, the base's
log-probabilities and the importance matrix, and lists what to measure: names of tensors with a type for each. What is
found is appended to `results`, a line of JSON each, so that a run which was killed has lost one measurement at most.

The scratch copy is mapped into memory by llama.cpp, so what is written into the file is what the model computes with.
Where that is not so (a GPU holds the weights, or the CPU keeps them in an order of its own), which a comparison at the
first measurement shows, the model is loaded again each time.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.weights import (
    from_float32,
    importance_of,
    read_bytes,
    row_bytes,
    rows_of,
    through,
    to_float32,
)
from ggufkit.crew import work_through
from ggufkit.evaluation.child_process import refusing
from ggufkit.evaluation.likelihood.logits_file import LogitsFile
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.scores import COLUMNS, score_against
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.inference.chunk_reader import ChunkReader
from ggufkit.llamacpp import cpu, ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.importance import load_importance

DONE = "measured:"
SEEN = "changes are seen"
_ELEMENTS_AT_ONCE = 1 << 18
_KLD = COLUMNS.index("kld")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringRequest:
    """What the child is to do; paths are absolute. `todo` has a name and the types of tensors for each measurement."""

    sources: tuple[str, ...]
    scratches: tuple[str, ...]
    tokens: str
    chunk_tokens: int
    chunks: int
    base: str
    results: str
    importance: str = ""
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    running: Running = field(default_factory=Running)
    todo: tuple[tuple[str, Mapping[str, str]], ...] = ()
    sees_changes: bool | None = None  # None: not known yet

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "MeasuringRequest":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        content["running"] = Running(**content["running"])
        return cls(**content)


class _Scratch:
    """The copy, of which single tensors are overwritten and restored."""

    def __init__(self, request: MeasuringRequest, library: Ggml, threads: int, stack: ExitStack) -> None:
        self._library, self._threads = library, threads
        self._places: dict[str, tuple[GgufHeader, TensorInfo, int, int]] = {}
        for source, scratch in zip(request.sources, request.scratches, strict=True):
            header = read_header(Path(source))
            here = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, here)
            there = os.open(scratch, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, there)
            for tensor in header.tensors:
                self._places[tensor.name] = (header, tensor, here, there)
        self._importance: Mapping[str, NDArray[np.float32]] = {}
        if request.importance:
            matrix = load_importance(Path(request.importance))
            self._importance = matrix.only(request.include_weights, request.exclude_weights).values

    def overwrite(self, types: Mapping[str, str]) -> None:
        """Give tensors the values that they have after being stored in other types."""

        def work(piece: tuple[str, int, int, int]) -> int:
            name, expert, first, count = piece
            header, tensor, here, there = self._places[name]
            columns, rows, _ = rows_of(tensor)
            row = row_bytes(tensor.type, columns)
            start = (expert * rows + first) * row
            values = to_float32(self._library, read_bytes(here, header, tensor, start, count * row), tensor.type)
            kind = TensorType[types[name]]
            importance = importance_of(self._importance, tensor, expert)
            changed = through(self._library, values, kind, columns, importance)
            _write(there, from_float32(self._library, changed, tensor.type), tensor.offset + start)
            return count * columns

        work_through(self._pieces(types), work, threads=self._threads, report=lambda _: None)

    def restore(self, names: Mapping[str, str]) -> None:
        """Give tensors their own bytes again."""

        def work(piece: tuple[str, int, int, int]) -> int:
            name, expert, first, count = piece
            header, tensor, here, there = self._places[name]
            columns, rows, _ = rows_of(tensor)
            row = row_bytes(tensor.type, columns)
            start = (expert * rows + first) * row
            _write(there, read_bytes(here, header, tensor, start, count * row), tensor.offset + start)
            return count * columns

        work_through(self._pieces(names), work, threads=self._threads, report=lambda _: None)

    def _pieces(self, names: Mapping[str, str]) -> Iterator[tuple[str, int, int, int]]:
        """Cut tensors into rows of one expert: (tensor, expert, first row, rows)."""
        for name in names:
            columns, rows, experts = rows_of(self._places[name][1])
            step = max(1, _ELEMENTS_AT_ONCE // columns)
            for expert in range(experts):
                for first in range(0, rows, step):
                    yield name, expert, first, min(step, rows - first)


class _Judge:
    """Reads the chunks with the scratch copy and compares with the base."""

    def __init__(self, request: MeasuringRequest, stack: ExitStack) -> None:
        self._request, self._stack = request, stack
        self._chunks = np.fromfile(request.tokens, "<i4").reshape(request.chunks, request.chunk_tokens)
        self._rows = stack.enter_context(Path(request.base).open("rb"))  # noqa: SIM115 - the stack closes it
        self._reader: ChunkReader | None = None
        self._sees_changes = request.sees_changes
        stack.callback(self._close)

    def load(self) -> None:
        """Load the copy as it is now."""
        self._open(fresh=False)

    def divergences(self) -> list[float]:
        """Return the mean divergence of each chunk, in nats, as the scratch copy is now."""
        reader = self._open(fresh=self._sees_changes is False)
        found = self._read(reader, self._chunks)
        if self._sees_changes is None:
            again = self._read(self._open(fresh=True), self._chunks[: reader.side_by_side])
            self._sees_changes = again == found[: len(again)]
            if self._sees_changes:
                sys.stdout.write(f"{SEEN}\n")
            else:
                found = self._read(self._open(fresh=False), self._chunks)
        return found

    def unchanged(self) -> list[float]:
        """Return the divergence of the untouched copy, which says nothing about whether changes are seen."""
        return self._read(self._open(fresh=self._sees_changes is False), self._chunks)

    def _read(self, reader: ChunkReader, chunks: NDArray[np.int32]) -> list[float]:
        request = self._request
        base = LogitsFile(Path(request.base), request.chunk_tokens, reader.vocabulary_size, request.chunks)

        def divergence(number: int, logits: NDArray[np.float32], threads: int) -> float:
            following = chunks[number][request.chunk_tokens // 2 + 1 :]
            rows = base.rows(self._rows, number)
            scores = score_against(logits[: base.scored], following, rows, threads=threads)
            return float(scores[:, _KLD].mean(dtype=np.float64))

        return list(reader.each(chunks.tolist(), divergence))

    def _open(self, *, fresh: bool) -> ChunkReader:
        if fresh:
            self._close()
        if self._reader is None:
            request = self._request
            self._reader = ChunkReader.reading(
                Path(request.scratches[0]), request.chunk_tokens, request.running.options()
            )
        return self._reader

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def measure(request: MeasuringRequest) -> None:
    """Do all measurements of a request, one after the other."""
    library = ggml.load()
    if library is None:
        from ggufkit.quantization.direct import library as missing

        library = missing()
    threads = request.running.threads or cpu.usable_cores()
    with ExitStack() as stack:
        scratch = _Scratch(request, library, threads, stack)
        judge = _Judge(request, stack)
        judge.load()  # before anything is overwritten, so that the first measurement shows whether changes are seen
        results = stack.enter_context(Path(request.results).open("a"))
        for number, (name, types) in enumerate(request.todo):
            started = time.monotonic()
            scratch.overwrite(types)
            encoded = time.monotonic()
            chunks = judge.divergences() if types else judge.unchanged()
            scratch.restore(types)
            ended = time.monotonic()
            line = {
                "name": name,
                "kld": sum(chunks) / len(chunks),
                "chunks": [float(f"{chunk:.9g}") for chunk in chunks],
                "seconds": round(ended - started, 3),
                "encoding_seconds": round(encoded - started, 3),
            }
            results.write(json.dumps(line) + "\n")  # one write, so that lines of several processes do not mix
            results.flush()
            os.fsync(results.fileno())
            sys.stdout.write(f"{DONE} {number + 1}\n")
            sys.stdout.flush()


def _write(descriptor: int, content: NDArray[Any], offset: int) -> None:
    view, done = memoryview(np.ascontiguousarray(content).data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        measure(MeasuringRequest.read(path))
