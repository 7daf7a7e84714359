"""A process of its own that refines the tensors of a copy of a model, one after the other, in place.

The request (JSON) names the model, its copy (all parts), the chunks to learn from and the type of every tensor. Of the
chunks, every fifth is held out: a refined tensor is written only where its loss on those is lower than that of the
tensor as llama-quantize encodes it, both as they would be stored. Stacked experts are matrices of their own, each with
the inputs of the tokens that were sent to it. What was decided is appended to `results`, a line of JSON for each.

Small models are refined in order, each matrix for the inputs that it will get behind the ones before it.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.feedback import Feedback, Moments, loss, stored
from ggufkit.allocation.refinement.readings import HELD_OUT, Chunks, at_once, in_order, places, tokens_in_order
from ggufkit.allocation.weights import from_float32, importance_of, read_bytes, row_bytes, rows_of, to_float32
from ggufkit.evaluation.child_process import refusing
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu, ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.llamacpp.input_reader import of_expert
from ggufkit.quantization.importance import load_importance

DONE = "refined:"
READ = "read:"
_LEAST_TOKENS = 2  # times the columns: fewer rows of inputs say too little about what goes together
_ROWS_AT_ONCE = 2048
# Squares of so many columns, 8 bytes each: the moments, learned and held out, and what is computed of them meanwhile.
_HELD_AT_ONCE, _WORKED_WITH = 2, 5
_MOST_READINGS = 24  # of the text: many wide experts would take days
_HELD_IN_ORDER = 6
_NO_INPUTS = "no inputs were seen"
_LOOKED_UP = "token_embd.weight"  # a matrix as well, where embeddings are tied to the output


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
    in_order: bool = False

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
    chunks = np.fromfile(request.tokens, "<i4").reshape(request.chunks, request.chunk_tokens)
    importance: Mapping[str, NDArray[np.float32]] = {}
    if request.importance:
        matrix = load_importance(Path(request.importance))
        importance = matrix.only(request.include_weights, request.exclude_weights).values
    with ExitStack() as stack:
        pieces = _pieces(request, stack)
        results = stack.enter_context(Path(request.results).open("a"))
        work = _Work(request, library, importance, request.threads or cpu.usable_cores(), results)
        if request.in_order and _in_order_bytes(pieces) < request.memory // 2:
            work.in_order(pieces, chunks)
        else:
            work.at_once(pieces, chunks)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is the same for all matrices."""

    request: RefiningRequest
    library: Ggml
    importance: Mapping[str, NDArray[np.float32]]
    threads: int
    results: TextIO

    def at_once(self, pieces: Sequence[_Piece], chunks: Chunks) -> None:
        """Refine all for the inputs that the untouched model gives them."""
        batches, left = _batches(pieces, self.request.memory)
        for piece, reason in left:
            self.tell(piece, {"accepted": False, "reason": reason})
        for batch in batches:
            names = [piece.name for piece in batch]
            source = Path(self.request.sources[0])
            learned, held = at_once(source, names, chunks, self.threads, lambda at: _say(f"{READ} {at}"))
            for piece in batch:
                if not self.refine(piece, learned.get(piece.name), held.get(piece.name)):
                    self.undo(piece)

    def in_order(self, pieces: Sequence[_Piece], chunks: Chunks) -> None:
        """Refine one after the other, each for what it will get behind those before, and what nobody refines too."""
        source, copy = Path(self.request.sources[0]), Path(self.request.copies[0])
        named = {piece.name: piece for piece in pieces}
        order = places(source, list(named), chunks[0].tolist(), self.threads)
        met = {tensor for tensors in order for tensor in tensors}
        order = [tensors for tensors in order if tensors != [_LOOKED_UP]]
        for piece in pieces:
            self.store(piece)
        columns = {name: piece.columns for name, piece in named.items()}
        weights = sum(rows_of(piece.tensor)[1] * piece.columns for piece in pieces)
        most = tokens_in_order(weights, len(order)) // chunks.shape[1]
        read = chunks[: max(HELD_OUT, most)]
        readings = in_order(source, copy, order, columns, read, threads=self.threads, memory=self.request.memory // 2)
        undone = [piece for piece in pieces if piece.tensor.name not in met]
        for piece in undone:
            self.tell(piece, {"accepted": False, "reason": _NO_INPUTS})
        if _LOOKED_UP in met:  # what it becomes is read by all others
            learned, held = at_once(source, [_LOOKED_UP], read, self.threads, lambda _: None)
            if not self.refine(named[_LOOKED_UP], learned.get(_LOOKED_UP), held.get(_LOOKED_UP)):
                self.store(named[_LOOKED_UP])
                undone.append(named[_LOOKED_UP])
        for tensors, (learned, held) in zip(order, readings, strict=True):
            for piece in pieces:
                if piece.tensor.name in tensors and not self.refine(
                    piece, learned.get(piece.name), held.get(piece.name)
                ):
                    self.store(piece)
                    undone.append(piece)
        for piece in undone:
            self.undo(piece)

    def refine(self, piece: _Piece, learned: Moments | None, held: Moments | None) -> bool:
        """Write a refined matrix, tell its losses, and return whether it is better; else somebody has to undo it.

        Rows are worked on some at a time, so that the largest matrix takes no more memory than its moments.
        """
        started = time.monotonic()
        if learned is None or held is None or not held.tokens:
            self.tell(piece, {"accepted": False, "reason": _NO_INPUTS})
            return False
        if learned.tokens < _LEAST_TOKENS * piece.columns:
            reason = f"{learned.tokens} tokens are too few for {piece.columns} columns"
            self.tell(piece, {"accepted": False, "reason": reason})
            return False
        if not (np.isfinite(learned.given).all() and np.isfinite(held.given).all()):
            self.tell(piece, {"accepted": False, "reason": "its inputs are not all numbers"})
            return False
        feedback = Feedback(learned)
        kind, weighing, stored_as = self.kind(piece), self.weighing(piece), piece.tensor.type
        rounding = Moments(held.given, held.tokens)  # what matrices before this one did wrong is not its own
        before = after = own = left = 0.0
        for content, offset in _rows_of(piece):
            weights = to_float32(self.library, content, stored_as).reshape(-1, piece.columns)
            better = feedback.refined(self.library, weights, kind, weighing)
            kept = from_float32(self.library, better, stored_as)  # as the copy holds it, which may be half as wide
            again = to_float32(self.library, kept, stored_as).reshape(-1, piece.columns)
            plain = stored(self.library, weights, kind, weighing)
            before += loss(weights, plain, held)
            own += loss(weights, plain, rounding)
            found = stored(self.library, again, kind, weighing)
            after += loss(weights, found, held)
            left += loss(feedback.aimed_at(weights), found, rounding)
            after = after if np.isfinite(better).all() else float("inf")
            _write(piece.there, kept, offset)
        accepted = bool(after < before)
        told = {"before": before / held.tokens, "after": after / held.tokens if np.isfinite(after) else None}
        if accepted:
            told["left"] = left / own if own else 1.0
        self.tell(piece, {"accepted": accepted, **told, "seconds": round(time.monotonic() - started, 3)})
        return accepted

    def store(self, piece: _Piece) -> None:
        """Write a matrix as llama-quantize leaves it."""
        for content, offset in _rows_of(piece):
            weights = to_float32(self.library, content, piece.tensor.type).reshape(-1, piece.columns)
            encoded = stored(self.library, weights, self.kind(piece), self.weighing(piece))
            _write(piece.there, from_float32(self.library, encoded, piece.tensor.type), offset)

    def undo(self, piece: _Piece) -> None:
        """Write a matrix as it was."""
        for content, offset in _rows_of(piece):
            _write(piece.there, content, offset)

    def kind(self, piece: _Piece) -> TensorType:
        """The type that a matrix will get."""
        return TensorType[self.request.types[piece.tensor.name]]

    def weighing(self, piece: _Piece) -> NDArray[np.float32] | None:
        """What llama-quantize weighs its columns with."""
        return importance_of(self.importance, piece.tensor, piece.expert)

    def tell(self, piece: _Piece, told: Mapping[str, Any]) -> None:
        """Append what became of a matrix to the results."""
        self.results.write(json.dumps({"tensor": piece.name, **told}) + "\n")
        self.results.flush()
        _say(f"{DONE} {piece.name}")


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


def _in_order_bytes(pieces: Sequence[_Piece]) -> int:
    """Bytes that the moments of a place take, all experts of a tensor at once, and the work on one of them."""
    held = max((rows_of(piece.tensor)[2] * piece.columns**2 for piece in pieces), default=0)
    widest = max((piece.columns**2 for piece in pieces), default=0)
    return 8 * (_HELD_IN_ORDER * held + _WORKED_WITH * widest)


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
