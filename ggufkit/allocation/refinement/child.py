"""A process of its own that refines the tensors of a copy of a model, one after the other, in place.

The request (JSON) names the model, its copy (all parts), the chunks to learn from and the type of every tensor. Of the
chunks, every fifth is held out: a refined tensor is written only where its loss on those is lower than that of the
tensor as llama-quantize encodes it, both as they would be stored. Stacked experts are matrices of their own, each with
the inputs of the tokens that were sent to it. What was decided is appended to `results`, a line of JSON for each.

Small models are refined in order, each matrix for the inputs that it will get behind the ones before it.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import has_book
from ggufkit.allocation.refinement.feedback import Feedback, Moments, Refined, loss, stored
from ggufkit.allocation.refinement.lookups import errors_of, lookup_moments, memory_needed
from ggufkit.allocation.refinement.pieces import Piece, pieces_of
from ggufkit.allocation.refinement.readings import (
    HELD_OUT,
    Chunks,
    Reading,
    at_once,
    in_order,
    places,
    scales_of,
    tokens_in_order,
)
from ggufkit.allocation.weights import from_float32, importance_of, rows_of, to_float32
from ggufkit.evaluation.child_process import refusing
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu, ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.importance import load_importance

DONE = "refined:"
READ = "read:"
_LEAST_TOKENS = 2  # times the columns: fewer rows of inputs say too little about what goes together
# Squares of so many columns, 8 bytes each: the moments, learned and held out, and what is computed of them meanwhile.
_HELD_AT_ONCE, _WORKED_WITH = 2, 5
_MOST_READINGS = 24  # of the text: many wide experts would take days
_HELD_IN_ORDER = 6
_NO_INPUTS = "no inputs were seen"
LOOKED_UP = "token_embd.weight"  # a matrix as well, where embeddings are tied to the output


@dataclass(frozen=True, slots=True, kw_only=True)
class RefiningRequest:
    """What the child is to do; paths are absolute.

    `memory` bounds what the moments take and their work, in bytes. Chunks `in_disorder` are no text. `outputs` names
    files with the moments of gradients at matrices' outputs, float32 [n_out, n_out], of those that have any.
    """

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
    in_disorder: tuple[int, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "RefiningRequest":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**content)


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
        types = {name: TensorType[kind] for name, kind in request.types.items()}
        sources, copies = ([Path(path) for path in paths] for paths in (request.sources, request.copies))
        pieces = pieces_of(sources, copies, types, stack)
        results = stack.enter_context(Path(request.results).open("a"))
        ordered = request.in_order and _in_order_bytes(pieces) < request.memory // 2
        work = _Work(request, library, importance, request.threads or cpu.usable_cores(), results, ordered)
        if ordered:
            work.in_order(pieces, chunks)
        else:
            work.at_once(pieces, chunks)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is the same for all matrices.

    `ordered`: others are refined behind each. `to_hand` are bytes to be stored for matrices whose values the copy holds
    meanwhile, by matrix and place in the file.
    """

    request: RefiningRequest
    library: Ggml
    importance: Mapping[str, NDArray[np.float32]]
    threads: int
    results: TextIO
    ordered: bool
    to_hand: dict[str, dict[int, NDArray[Any]]] = field(default_factory=dict)

    def at_once(self, pieces: Sequence[Piece], chunks: Chunks) -> None:
        """Refine all for the inputs that the untouched model gives them."""
        source = Path(self.request.sources[0])
        scales = scales_of(source, chunks, self.threads, _read)
        batches, left = _batches(pieces, self.request.memory)
        for piece, reason in left:
            self.tell(piece, {"accepted": False, "reason": reason})
        for batch in batches:
            names = [piece.name for piece in batch]
            learned, held = at_once(source, names, chunks, self.threads, _read, scales)
            for piece in batch:
                if not self.refine(piece, learned.get(piece.name), held.get(piece.name)):
                    self.undo(piece)

    def in_order(self, pieces: Sequence[Piece], chunks: Chunks) -> None:
        """Refine one after the other, each for what it will get behind those before, and what nobody refines too."""
        source, copy = Path(self.request.sources[0]), Path(self.request.copies[0])
        named = {piece.name: piece for piece in pieces}
        order = places(source, list(named), chunks[0].tolist(), self.threads)
        met = {tensor for tensors in order for tensor in tensors}
        order = [tensors for tensors in order if tensors != [LOOKED_UP]]
        columns = {name: piece.columns for name, piece in named.items()}
        weights = sum(rows_of(piece.tensor)[1] * piece.columns for piece in pieces)
        most = tokens_in_order(weights, len(order)) // chunks.shape[1]
        read = chunks[: max(HELD_OUT, most)]
        scales = scales_of(source, read, self.threads)
        embeddings = named.get(LOOKED_UP)
        looked_up: Reading | None = None
        if LOOKED_UP in met:
            looked_up = at_once(source, [LOOKED_UP], read, self.threads, lambda _: None, scales)
        elif embeddings is not None:
            ordered = [number for number in range(len(read)) if number not in self.request.in_disorder]
            looked_up = self.lookups(embeddings, named, order, read[ordered] if ordered else read)
        for piece in pieces:
            self.store(piece)
        readings = in_order(
            source, copy, order, columns, read, threads=self.threads, memory=self.request.memory // 2, scales=scales
        )
        undone = []
        for piece in pieces:
            if piece.tensor.name not in met and not (piece is embeddings and looked_up):
                self.tell(piece, {"accepted": False, "reason": _NO_INPUTS})
                undone.append(piece)
        if embeddings is not None and looked_up is not None:  # what they become is read by all others
            learned, held = looked_up
            if not self.refine(embeddings, learned.get(LOOKED_UP), held.get(LOOKED_UP)):
                self.store(embeddings)
                undone.append(embeddings)
        for tensors, (learned, held) in zip(order, readings, strict=True):
            for piece in pieces:
                if piece.tensor.name in tensors and not self.refine(
                    piece, learned.get(piece.name), held.get(piece.name)
                ):
                    self.store(piece)
                    undone.append(piece)
        self.hand(pieces)
        for piece in undone:
            self.undo(piece)

    def lookups(
        self, embeddings: Piece, named: Mapping[str, Piece], order: Sequence[Sequence[str]], chunks: Chunks
    ) -> Reading | None:
        """Find out what errors of embeddings do; the copy is still as the model. None where memory is too small."""
        places_ = [[name for name in tensors if name in named] for tensors in order]
        readers = [names for names in places_ if names]
        width = embeddings.columns
        needed = memory_needed([named[names[0]].columns for names in readers], width)
        whole = 4 * rows_of(embeddings.tensor)[1] * width
        if not readers or needed + 3 * whole > self.request.memory // 2:
            return None
        rows = embeddings.weights(self.library)
        errors = errors_of(rows)
        stored_as, changed = embeddings.tensor.type, from_float32(self.library, rows + errors, embeddings.tensor.type)
        errors = to_float32(self.library, changed, stored_as).reshape(rows.shape) - rows
        embeddings.write(changed, embeddings.tensor.offset)
        source, copy = Path(self.request.sources[0]), Path(self.request.copies[0])
        learned, held = lookup_moments(
            source, copy, errors, readers, lambda name: named[name].weights(self.library), chunks, self.threads
        )
        return {LOOKED_UP: learned}, {LOOKED_UP: held}

    def refine(self, piece: Piece, learned: Moments | None, held: Moments | None) -> bool:
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
        outputs = self.outputs(piece)
        feedback = Feedback(learned, outputs, threads=self.threads)
        kind, weighing, stored_as = self.kind(piece), self.weighing(piece), piece.tensor.type
        rounding = Moments(held.given, held.tokens)  # what matrices before this one did wrong is not its own
        before = after = own = left = 0.0
        for content, offset in piece.rows():
            weights = to_float32(self.library, content, stored_as).reshape(-1, piece.columns)
            better = feedback.refined(self.library, weights, kind, weighing)
            kept = from_float32(self.library, better.handed, stored_as)  # as the copy holds it, maybe half as wide
            again = to_float32(self.library, kept, stored_as).reshape(-1, piece.columns)
            plain = stored(self.library, weights, kind, weighing)
            before += loss(weights, plain, held, outputs)
            own += loss(weights, plain, rounding, outputs)
            found = stored(self.library, again, kind, weighing)
            after += loss(weights, found, held, outputs)
            left += loss(feedback.aimed_at(weights), found, rounding, outputs)
            after = after if np.isfinite(better.values).all() else float("inf")
            self.write(piece, better, offset)
        accepted = bool(after < before)
        told = {"before": before / held.tokens, "after": after / held.tokens if np.isfinite(after) else None}
        if accepted:
            told["left"] = left / own if own else 1.0
        if accepted and self.ordered:
            del feedback
            self.learn_from_all(piece, learned.with_more(held))
        self.tell(piece, {"accepted": accepted, **told, "seconds": round(time.monotonic() - started, 3)})
        return accepted

    def learn_from_all(self, piece: Piece, moments: Moments) -> None:
        """Refine a matrix that has proved to gain once more, also by what has judged it: more text teaches more."""
        feedback = Feedback(moments, self.outputs(piece), threads=self.threads)
        for content, offset in piece.rows():
            weights = to_float32(self.library, content, piece.tensor.type).reshape(-1, piece.columns)
            better = feedback.refined(self.library, weights, self.kind(piece), self.weighing(piece))
            if np.isfinite(better.values).all():
                self.write(piece, better, offset)

    def write(self, piece: Piece, rows: Refined, offset: int) -> None:
        """Write refined rows: their values as long as others are refined behind them, and what to store at the end."""
        handed = from_float32(self.library, rows.handed, piece.tensor.type)
        if not (self.ordered and has_book(self.kind(piece))):
            piece.write(handed, offset)
            return
        piece.write(from_float32(self.library, rows.values, piece.tensor.type), offset)
        self.to_hand.setdefault(piece.name, {})[offset] = handed

    def hand(self, pieces: Sequence[Piece]) -> None:
        """Write what is to be stored, of those matrices that it differs from the values of."""
        for piece in pieces:
            for offset, rows in self.to_hand.pop(piece.name, {}).items():
                piece.write(rows, offset)

    def store(self, piece: Piece) -> None:
        """Write a matrix as llama-quantize leaves it."""
        for content, offset in piece.rows():
            weights = to_float32(self.library, content, piece.tensor.type).reshape(-1, piece.columns)
            encoded = stored(self.library, weights, self.kind(piece), self.weighing(piece))
            piece.write(from_float32(self.library, encoded, piece.tensor.type), offset)

    def undo(self, piece: Piece) -> None:
        """Write a matrix as it was."""
        for content, offset in piece.rows():
            piece.write(content, offset)

    def kind(self, piece: Piece) -> TensorType:
        """The type that a matrix will get."""
        return TensorType[self.request.types[piece.tensor.name]]

    def outputs(self, piece: Piece) -> NDArray[np.float64] | None:
        """What errors of its outputs do in the end, where that is known of all its rows, which are read at once."""
        path = self.request.outputs.get(piece.name)
        found = np.load(path).astype(np.float64) if path and piece.is_read_at_once else None
        return found if found is not None and np.isfinite(found).all() and found.trace() > 0 else None

    def weighing(self, piece: Piece) -> NDArray[np.float32] | None:
        """What llama-quantize weighs its columns with."""
        return importance_of(self.importance, piece.tensor, piece.expert)

    def tell(self, piece: Piece, told: Mapping[str, Any]) -> None:
        """Append what became of a matrix to the results."""
        self.results.write(json.dumps({"tensor": piece.name, **told}) + "\n")
        self.results.flush()
        _say(f"{DONE} {piece.name}")


def _in_order_bytes(pieces: Sequence[Piece]) -> int:
    """Bytes that the moments of a place take, all experts of a tensor at once, and the work on one of them."""
    held = max((rows_of(piece.tensor)[2] * piece.columns**2 for piece in pieces), default=0)
    widest = max((piece.columns**2 for piece in pieces), default=0)
    return 8 * (_HELD_IN_ORDER * held + _WORKED_WITH * widest)


def _batches(pieces: Sequence[Piece], memory: int) -> tuple[list[list[Piece]], list[tuple[Piece, str]]]:
    """Group matrices whose moments fit into the memory together; each group reads the text once.

    Returns also those that are left out, and why: they are too wide, or there are too many.
    """
    batches: list[list[Piece]] = []
    left: list[tuple[Piece, str]] = []
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


def _read(chunks: int) -> None:
    _say(f"{READ} {chunks}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        refine(RefiningRequest.read(path))
