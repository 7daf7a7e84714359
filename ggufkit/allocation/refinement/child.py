"""A process of its own that refines the tensors of a copy of a model, one after the other, in place.

The request (JSON) names the model, its copy (all parts), the chunks to learn from and the type of every tensor. Of the
chunks, every fifth is held out: a refined tensor is written only where its loss on those is lower than that of the
tensor as llama-quantize encodes it, both as they would be stored. What was decided is appended to `results`, a line of
JSON for each tensor.
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

from ggufkit.allocation.refinement.feedback import Moments, loss, refined, stored
from ggufkit.allocation.weights import from_float32, importance_of, read_bytes, rows_of, to_float32
from ggufkit.errors import GgufkitError
from ggufkit.evaluation.child_process import refusal
from ggufkit.evaluation.likelihood.child import REFUSED
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu, ggml
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.llamacpp.input_moments import InputMoments
from ggufkit.quantization.importance import load_importance

DONE = "refined:"
READ = "read:"
_HELD_OUT = 5  # one chunk of so many
_LEAST_TOKENS = 2  # times the columns: fewer rows of inputs say too little about what goes together


@dataclass(frozen=True, slots=True, kw_only=True)
class RefiningRequest:
    """What the child is to do; paths are absolute. `memory` bounds the moments that are held at once, in bytes."""

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
class _Place:
    """A tensor, and where it is read and written."""

    header: GgufHeader
    tensor: TensorInfo
    here: int
    there: int


def refine(request: RefiningRequest) -> None:
    """Refine all tensors of a request that can be."""
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
        places = _places(request, stack)
        results = stack.enter_context(Path(request.results).open("a"))
        for batch in _batches(places, request.memory):
            learned, held = _moments(request, batch, chunks, threads)
            for name in batch:
                started = time.monotonic()
                told = _refine_one(library, places[name], request, learned, held, importance)
                line = {"tensor": name, **told, "seconds": round(time.monotonic() - started, 3)}
                results.write(json.dumps(line) + "\n")
                results.flush()
                _say(f"{DONE} {name}")


def _places(request: RefiningRequest, stack: ExitStack) -> dict[str, _Place]:
    """Open the tensors that may be refined: matrices that get a quantized type. Stacked experts stay as they are."""
    places = {}
    for source, copy in zip(request.sources, request.copies, strict=True):
        header = read_header(Path(source))
        here = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, here)
        there = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, there)
        for tensor in header.tensors:
            kind = request.types.get(tensor.name)
            if kind is not None and TensorType[kind].is_quantized and rows_of(tensor)[2] == 1:
                places[tensor.name] = _Place(header, tensor, here, there)
    return places


def _batches(places: Mapping[str, _Place], memory: int) -> Iterator[list[str]]:
    """Group tensors so that their moments, learned and held out, fit into the memory; each group reads the text."""
    batch: list[str] = []
    size = 0
    for name, place in places.items():
        own = 2 * 8 * place.tensor.shape[0] ** 2
        if batch and size + own > memory:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += own
    if batch:
        yield batch


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
    place: _Place,
    request: RefiningRequest,
    learned: Mapping[str, tuple[Moments, int]],
    held: Mapping[str, tuple[Moments, int]],
    importance: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """Refine a tensor and write it where that is better; tell the losses, and why it was left."""
    tensor = place.tensor
    columns, rows, _ = rows_of(tensor)
    if tensor.name not in learned or tensor.name not in held:
        return {"accepted": False, "reason": "no inputs were seen"}
    (moments, tokens), (judging, judged) = learned[tensor.name], held[tensor.name]
    if tokens < _LEAST_TOKENS * columns:
        return {"accepted": False, "reason": f"{tokens} tokens are too few for {columns} columns"}
    kind = TensorType[request.types[tensor.name]]
    content = read_bytes(place.here, place.header, tensor, 0, tensor.size)
    weights = to_float32(library, content, tensor.type).reshape(rows, columns)
    weighing = importance_of(importance, tensor, 0)
    better = refined(library, weights, kind, moments, weighing)
    kept = from_float32(library, better, tensor.type)  # as the copy holds it, which may be half as wide
    again = stored(library, to_float32(library, kept, tensor.type).reshape(rows, columns), kind, weighing)
    plain = stored(library, weights, kind, weighing)
    before, after = loss(weights, plain, judging) / judged, loss(weights, again, judging) / judged
    accepted = bool(np.isfinite(better).all() and after < before)
    if accepted:
        _write(place.there, kept, tensor.offset)
    return {"accepted": accepted, "before": before, "after": after}


def _write(descriptor: int, content: NDArray[Any], offset: int) -> None:
    view, done = memoryview(np.ascontiguousarray(content).data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    path = Path(sys.argv[1])
    request = RefiningRequest.read(path)
    try:
        refine(request)
    except GgufkitError as error:
        path.with_suffix(".error.json").write_text(refusal(error))
        sys.exit(REFUSED)
