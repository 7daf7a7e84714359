"""What goes into matrices, by reading text: that of the untouched model at once, or what rounded ones leave, in order.

At once is one reading for as many matrices as memory holds the sums of. In order, a matrix is refined for the inputs
that it will get: those behind the matrices that are refined already, beside those of the untouched model. That takes a
reading for each place in the model, each as far as that place.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.feedback import Moments, Squares
from ggufkit.llamacpp.input_moments import InputMoments
from ggufkit.llamacpp.input_reader import InputReader, Place, expert_of, of_expert, tensor_of

_ROWS_AT_ONCE = 64  # of logits
_LEAST_DOUBT = 1e-4  # so that no token counts for nothing
HELD_OUT = 5  # one chunk of so many
# In order, places * tokens * weights are about this many; two minutes. With half as many a Llama of 5.8 M weights lost
# nothing, and a tied one 7 %.
_WORK, _LEAST = 1.2e13, 32_768
# Of a reading of the whole model for all sums at once, about; each stops at its place, on average halfway.
_OF_A_READING = 0.2
_BESIDES = 1.0  # what tokens count for, and what embeddings do
Reading = tuple[Mapping[str, Moments], Mapping[str, Moments]]
"""The moments of some matrices: those to learn from, and those that are held out."""
Chunks = NDArray[np.int32]
"""Token ids, int32 [n_chunks, chunk length]."""
Scales = NDArray[np.float32]
"""What the inputs of each token are multiplied with, float32 [n_chunks, chunk length], or of one chunk."""


def tokens_in_order(weights: int, places_: int) -> int:
    """Return how many tokens each place is read with, at most, for a model of so many weights."""
    return max(_LEAST, int(_WORK / (max(1, weights) * max(1, places_))))


def tokens_read_in_order(weights: int, places_: int, tokens: int) -> int:
    """Return how many tokens are read in all, as if by the whole model, of a text that has `tokens`."""
    return int((_OF_A_READING * places_ + _BESIDES) * min(tokens, tokens_in_order(weights, places_)))


def is_held_out(number: int, count: int) -> bool:
    """Whether one of `count` chunks judges what the others have taught."""
    return number % HELD_OUT == HELD_OUT - 1 or count - 1 == number < HELD_OUT


def scales_of(model: Path, chunks: Chunks, threads: int, told: Callable[[int], None] = lambda _: None) -> Scales:
    """Say how much each token counts by how much the model doubts what follows it, the mean of the squares being 1.

    Where nothing but one token can follow, errors change no probabilities: to first order, those of the logits change
    them by what 1 - (sum of p^2) says. Errors also have effects on later tokens, so that the root of it does better.
    `told` gets how many chunks were read.

    Raises:
        LlamaCppError: llama.cpp failed.
    """
    doubts = np.ones(chunks.shape, np.float32)
    with Inputs(model, (), length=chunks.shape[1], threads=threads) as reader:
        for number, (doubt, chunk) in enumerate(zip(doubts, chunks.tolist(), strict=True)):
            reader.read(chunk)
            told(number + 1)
            logits = reader.logits(len(chunk))
            if logits is None:
                return np.ones(chunks.shape, np.float32)
            for start in range(0, len(chunk), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                doubt[rows] = 1 - _agreement(logits[rows])
    weights = np.sqrt(np.clip(np.nan_to_num(doubts, nan=1.0), _LEAST_DOUBT, 1))
    found: Scales = np.sqrt(weights / weights.mean()).astype(np.float32)
    return found


def _agreement(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of squared probabilities of each row."""
    with np.errstate(invalid="ignore"):  # of models that answer infinities
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: NDArray[np.float32] = np.square(odds).sum(axis=1) / np.square(odds.sum(axis=1))
    return found


def at_once(
    model: Path,
    names: Collection[str],
    chunks: Chunks,
    threads: int,
    told: Callable[[int], None],
    scales: Scales | None = None,
) -> Reading:
    """Let the untouched model read; `told` gets how many chunks were read. Raises LlamaCppError."""
    found: list[dict[str, Moments]] = []
    with InputMoments(model, names, length=chunks.shape[1], threads=threads) as reader:
        for held in (False, True):
            for number, chunk in enumerate(chunks.tolist()):
                if is_held_out(number, len(chunks)) == held:
                    reader.read(chunk, None if scales is None else scales[number])
                    told(number + 1)
            groups = {name: group for name, group in reader.group_of.items() if group in reader.sums}
            found.append({name: Moments(reader.sums[group], reader.tokens[group]) for name, group in groups.items()})
            reader.sums, reader.tokens = {}, {}
    return found[0], found[1]


def places(model: Path, names: Collection[str], chunk: Sequence[int], threads: int) -> list[list[str]]:
    """Return tensors that read the same inputs together, in the order in which the model first comes to them.

    Raises LlamaCppError.
    """
    with _Order(model, names, length=len(chunk), threads=threads) as reader:
        reader.read(chunk)
    return [list(dict.fromkeys(tensors)) for tensors in reader.met.values()]


def in_order(
    model: Path,
    copy: Path,
    order: Sequence[Sequence[str]],
    columns: Mapping[str, int],
    chunks: Chunks,
    *,
    threads: int,
    memory: int,
    scales: Scales | None = None,
) -> Iterator[Reading]:
    """Yield the moments of the matrices at each place in turn; `copy` holds by then what was made of those before.

    Args:
        model: the untouched model.
        copy: the same tensors with other values.
        order: tensors at each place, as of `places`.
        columns: the length of rows, by matrix; an expert of a tensor is a matrix of its own.
        chunks: what is read.
        threads: for computing.
        memory: bytes that inputs of the untouched model may take, which are kept for several places at a time.
        scales: how much each token counts; None: all the same.

    Raises:
        LlamaCppError: llama.cpp failed.
    """
    matrices = [[name for name in columns if tensor_of(name) in tensors] for tensors in order]
    kept: dict[str, list[NDArray[np.float32]]] = {}
    for number, names in enumerate(matrices):
        first = [name for name in names if tensor_of(name) == tensor_of(names[0])]
        if expert_of(first[0]) is None and first[0] not in kept:
            kept = _untouched(model, _next(matrices[number:], columns, chunks.size, memory), chunks, threads, scales)
        sums: tuple[dict[str, _Sums], dict[str, _Sums]] = ({}, {})
        with (
            Inputs(copy, first, length=chunks.shape[1], threads=threads, is_cut_short=True) as reader,
            ThreadPoolExecutor(1) as pool,
        ):
            for at, chunk in enumerate(chunks.tolist()):
                reader.read(chunk, None if scales is None else scales[at])
                for name, given in reader.found.items():
                    own = sums[is_held_out(at, len(chunks))].setdefault(name, _Sums(columns[name]))
                    # Which tokens go to an expert differs between both models, so their inputs are no pairs.
                    own.add(given, kept[name][at] if name in kept else None, pool if threads > 1 else None)
        yield _told(sums[0], names, first), _told(sums[1], names, first)
        kept.pop(first[0], None)


class _Sums:
    """Moments that grow."""

    def __init__(self, columns: int) -> None:
        self.given = np.zeros((columns, columns))
        self.drift: Squares | None = None
        self.inherited: Squares | None = None
        self.tokens = 0

    def add(self, given: NDArray[np.float32], untouched: NDArray[np.float32] | None, pool: Executor | None) -> None:
        """Add inputs, [n_tokens, n_in], and what the untouched model gives for the same tokens; a `pool` helps."""
        self.tokens += len(given)
        if untouched is None:
            self.given += given.T @ given
            return
        change = untouched - given

        def drifted() -> NDArray[Any]:
            return change.T @ given

        elsewhere = pool.submit(drifted) if pool else None  # as much work as both of the others
        if self.drift is None or self.inherited is None:
            self.drift, self.inherited = np.zeros_like(self.given), np.zeros_like(self.given)
        self.given += given.T @ given
        self.inherited += change.T @ change
        self.drift += elsewhere.result() if elsewhere else drifted()

    def moments(self) -> Moments:
        """Return what was added up."""
        return Moments(self.given, self.tokens, self.drift, self.inherited)


class Inputs(InputReader):
    """Keeps the inputs of the last chunk, [n_tokens, n_in] by matrix."""

    found: dict[str, NDArray[np.float32]]

    def read(self, chunk: Sequence[int], scales: Scales | None = None) -> None:
        """Read a chunk. Raises LlamaCppError."""
        self.found = {}
        super().read(chunk, scales)

    def take(self, name: str, place: Place, inputs: Callable[[], NDArray[np.float32]]) -> None:  # noqa: ARG002 - as of all readers
        """Keep inputs."""
        self.found[name] = np.array(inputs())


class _Order(InputReader):
    """Notes which tensors read what."""

    met: dict[int, list[str]]

    def read(self, chunk: Sequence[int], scales: Scales | None = None) -> None:
        self.met = {}
        super().read(chunk, scales)

    def take(self, name: str, place: Place, inputs: Callable[[], NDArray[np.float32]]) -> None:  # noqa: ARG002 - as of all readers
        tensor = tensor_of(name)
        if not any(tensor in tensors for at, tensors in self.met.items() if at != place[0]):
            self.met.setdefault(place[0], []).append(tensor)


def _next(matrices: Sequence[Sequence[str]], columns: Mapping[str, int], tokens: int, memory: int) -> list[str]:
    """Name the first matrix at each of the next places, as many as whose inputs fit into memory, and at least one."""
    found: list[str] = []
    size = 0
    for names in matrices:
        if expert_of(names[0]) is not None:
            continue
        size += 4 * columns[names[0]] * tokens
        if found and size > memory:
            break
        found.append(names[0])
    return found


def _untouched(
    model: Path, names: Sequence[str], chunks: Chunks, threads: int, scales: Scales | None
) -> dict[str, list[NDArray[np.float32]]]:
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    with Inputs(model, names, length=chunks.shape[1], threads=threads, is_cut_short=True) as reader:
        for at, chunk in enumerate(chunks.tolist()):
            reader.read(chunk, None if scales is None else scales[at])
            for name, inputs in reader.found.items():
                kept[name].append(inputs)
    return kept


def _told(sums: Mapping[str, _Sums], names: Sequence[str], first: Sequence[str]) -> dict[str, Moments]:
    """Give each matrix the moments of that one of the `first` tensor which reads the same."""
    moments = {name: own.moments() for name, own in sums.items()}
    found = {}
    for name in names:
        expert = expert_of(name)
        read = first[0] if expert is None else of_expert(tensor_of(first[0]), expert)
        if read in moments:
            found[name] = moments[read]
    return found
