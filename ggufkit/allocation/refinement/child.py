"""A process of its own that refines the tensors of a copy of a model, one after the other, in place.

The request (JSON) names the model, its copy (all parts), the chunks to learn from and the type of every tensor. Of the
chunks, every fifth is held out: a refined tensor is written only where its loss on those is lower than that of the
tensor as llama-quantize encodes it, both as they would be stored. Stacked experts are matrices of their own, each with
the inputs of the tokens that were sent to it. What was decided is appended to `results`, a line of JSON for each.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.feedback import Feedback, Moments, loss, stored
from ggufkit.allocation.weights import from_float32, importance_of, read_bytes, row_bytes, rows_of, to_float32
from ggufkit.evaluation.child_process import refusing
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu, ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.llamacpp.input_moments import InputMoments
from ggufkit.llamacpp.input_reader import of_expert
from ggufkit.quantization.importance import load_importance

DONE = "refined:"
READ = "read:"
_HELD_OUT = 5  # one chunk of so many
_LEAST_TOKENS = 2  # times the columns: fewer rows of inputs say too little about what goes together
_ROWS_AT_ONCE = 2048
# Squares of so many columns, 8 bytes each: the moments, learned and held out, and what is computed of them meanwhile.
_HELD_AT_ONCE, _WORKED_WITH = 2, 5
_MOST_READINGS = 24  # of the text: many wide experts would take days


@dataclass(frozen=True, slots=True, kw_only=True)
class RefiningRequest:
    """What the child is to do; paths are absolute. `memory` bounds what the moments take and their work, in bytes."""

    sources: tuple[str, ...]
    copies: tuple[str, ...]
    tokens: str
    chunk_tokens: int
    chunks: int
    types: Mapping[str, str]
    results: str
    importance: str = ""
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    threads: int = 0
    memory: int = 1 << 30

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "RefiningRequest":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**content)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A matrix, which is a tensor or one of its stacked experts, and where it is read and written."""

    header: GgufHeader
    tensor: TensorInfo
    expert: int
    here: int
    there: int

    @property
    def name(self) -> str:
        """The tensor's name, and which of its experts it is."""
        return self.tensor.name if rows_of(self.tensor)[2] == 1 else of_expert(self.tensor.name, self.expert)

    @property
    def columns(self) -> int:
        """The length of a row."""
        return self.tensor.shape[0]


def refine(request: RefiningRequest) -> None:
    """Refine all matrices of a request that can be."""
    library = ggml.load()
    if library is None:
        from ggufkit.quantization.direct import library as missing

        library = missing()
    threads = request.threads or cpu.usable_cores()
    chunks = np.fromfile(request.tokens, "<i4").reshape(request.chunks, request.chunk_tokens)
    importance: Mapping[str, NDArray[np.float32]] = {}
    if request.importance:
        matrix = load_importance(Path(request.importance))
        importance = matrix.only(request.include_weights, request.exclude_weights).values
    with ExitStack() as stack:
        pieces = _pieces(request, stack)
        results = stack.enter_context(Path(request.results).open("a"))

        def tell(piece: _Piece, told: Mapping[str, Any]) -> None:
            results.write(json.dumps({"tensor": piece.name, **told}) + "\n")
            results.flush()
            _say(f"{DONE} {piece.name}")

        batches, left = _batches(pieces, request.memory)
        for piece, reason in left:
            tell(piece, {"accepted": False, "reason": reason})
        for batch in batches:
            learned, held = _moments(request, [piece.name for piece in batch], chunks, threads)
            for piece in batch:
                started = time.monotonic()
                told = _refine_one(library, piece, request, learned, held, importance)
                tell(piece, {**told, "seconds": round(time.monotonic() - started, 3)})


def _pieces(request: RefiningRequest, stack: ExitStack) -> list[_Piece]:
    """Open the matrices that get a quantized type."""
    pieces = []
    for source, copy in zip(request.sources, request.copies, strict=True):
        header = read_header(Path(source))
        here = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, here)
        there = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, there)
        for tensor in header.tensors:
            kind = request.types.get(tensor.name)
            if kind is not None and TensorType[kind].is_quantized:
                pieces += [_Piece(header, tensor, expert, here, there) for expert in range(rows_of(tensor)[2])]
    return pieces


def _batches(pieces: Sequence[_Piece], memory: int) -> tuple[list[list[_Piece]], list[tuple[_Piece, str]]]:
    """Group matrices whose moments fit into the memory together; each group reads the text once.

    Returns also those that are left out, and why: they are too wide, or there are too many.
    """
    batches: list[list[_Piece]] = []
    left: list[tuple[_Piece, str]] = []
    size = widest = 0
    for piece in pieces:
        square = 8 * piece.columns**2
        if (_HELD_AT_ONCE + _WORKED_WITH) * square > memory:
            need = (_HELD_AT_ONCE + _WORKED_WITH) * square
            reason = f"rows of {piece.columns} need {need / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are free"
            left.append((piece, reason))
            continue
        grown = size + _HELD_AT_ONCE * square + _WORKED_WITH * max(widest, square)
        if not batches or grown > memory:
            if len(batches) == _MOST_READINGS:
                left.append((piece, f"the text would be read more than {_MOST_READINGS} times for so many matrices"))
                continue
            batches.append([])
            size = widest = 0
        batches[-1].append(piece)
        size, widest = size + _HELD_AT_ONCE * square, max(widest, square)
    return batches, left


def _moments(
    request: RefiningRequest, names: Sequence[str], chunks: NDArray[np.int32], threads: int
) -> tuple[dict[str, tuple[Moments, int]], dict[str, tuple[Moments, int]]]:
    """Let the model read; return (moments, tokens) of each tensor, learned and held out."""
    found: list[dict[str, tuple[Moments, int]]] = []
    with InputMoments(Path(request.sources[0]), names, length=request.chunk_tokens, threads=threads) as reader:
        for is_held in (False, True):
            for number, chunk in enumerate(chunks.tolist()):
                if (number % _HELD_OUT == _HELD_OUT - 1) == is_held:
                    reader.read(chunk)
                    _say(f"{READ} {number + 1}")
            found.append({name: (reader.sums[group], reader.tokens[group]) for name, group in reader.group_of.items()})
            reader.sums, reader.tokens = {}, {}
    return found[0], found[1]


def _refine_one(
    library: Ggml,
    piece: _Piece,
    request: RefiningRequest,
    learned: Mapping[str, tuple[Moments, int]],
    held: Mapping[str, tuple[Moments, int]],
    importance: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """Refine a matrix, and take that back where it is not better; tell the losses, and why it was left.

    Rows are worked on some at a time, so that the largest matrix takes no more memory than its moments.
    """
    name, tensor, columns = piece.name, piece.tensor, piece.columns
    if name not in learned or name not in held:
        return {"accepted": False, "reason": "no inputs were seen"}
    (moments, tokens), (judging, judged) = learned[name], held[name]
    if tokens < _LEAST_TOKENS * columns or not judged:
        return {"accepted": False, "reason": f"{tokens} tokens are too few for {columns} columns"}
    kind, weighing = TensorType[request.types[tensor.name]], importance_of(importance, tensor, piece.expert)
    feedback = Feedback(moments)
    before = after = 0.0
    for content, offset in _rows_of(piece):
        weights = to_float32(library, content, tensor.type).reshape(-1, columns)
        better = feedback.refined(library, weights, kind, weighing)
        kept = from_float32(library, better, tensor.type)  # as the copy holds it, which may be half as wide
        again = stored(library, to_float32(library, kept, tensor.type).reshape(-1, columns), kind, weighing)
        before += loss(weights, stored(library, weights, kind, weighing), judging) / judged
        after += loss(weights, again, judging) / judged if np.isfinite(better).all() else float("inf")
        _write(piece.there, kept, offset)
    accepted = bool(after < before)
    if not accepted:
        for content, offset in _rows_of(piece):
            _write(piece.there, content, offset)
    return {"accepted": accepted, "before": before, "after": after if np.isfinite(after) else None}


def _rows_of(piece: _Piece) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield some rows of a matrix at a time, as bytes, and where they are in the file."""
    columns, rows, _ = rows_of(piece.tensor)
    size = row_bytes(piece.tensor.type, columns)
    for first in range(0, rows, _ROWS_AT_ONCE):
        start, count = (piece.expert * rows + first) * size, min(_ROWS_AT_ONCE, rows - first)
        yield read_bytes(piece.here, piece.header, piece.tensor, start, count * size), piece.tensor.offset + start


def _write(descriptor: int, content: NDArray[Any], offset: int) -> None:
    view, done = memoryview(np.ascontiguousarray(content).data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        refine(RefiningRequest.read(path))
