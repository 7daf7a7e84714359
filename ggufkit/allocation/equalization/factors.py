"""By which factors channels are scaled, so that rounding loses least of what a model computes."""

import functools
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.row_errors import sampled
from ggufkit.allocation.weights import PLAIN, Floats, importance_of, read_bytes, rows_of, through, to_float32
from ggufkit.crew import work_through
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent

_VERSION = 3  # of how weights are scaled
_ROWS_SEEN, _ROWS_OF_EXPERT = 64, 32  # of a matrix, or of each of many experts: enough to see the size of its columns
_ROWS_TRIED = 512  # of all experts together
# How far a column grows that adds much to the outputs: 0 makes all columns as large as each other. Of ten matrices of
# two trained models, 0.1 to 0.15 lost least of nearly all, and other rows of the same matrices lost as little.
_POWERS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
_TRIALS, _TRIALS_OF_ODD = (TensorType.Q3_K, TensorType.Q4_K), (TensorType.Q4_0,)
_BETTER = 0.95  # of the loss must remain at most, or the channels are left as they are
_LARGEST = 256.0
_STEPS = 256  # of factors from one power of two to the next: the last bits of logarithms are not everywhere the same
_QUIETEST = 1e-4  # of the mean square of inputs: what is never used need not fill a block

_STAGE = "Looking for channels to scale"


@dataclass(frozen=True)
class Equalization:
    """Factors by channels, float32 [experts, count]: what makes a channel is divided by them, what reads it multiplied.

    Expert by expert where a stack of experts has channels of its own; else there is one row.
    """

    factors: Mapping[Channels, Floats]

    @property
    def count(self) -> int:
        """How many channels are scaled by a tenth or more."""
        return sum(int(np.count_nonzero(np.abs(np.log(each)) > np.log(1.1))) for each in self.factors.values())

    @functools.cached_property
    def columns(self) -> Mapping[str, Floats]:
        """What each column of a matrix, or element of a vector, is multiplied by, [experts, n_in], by name."""
        found: dict[str, Floats] = {}
        for channels, factors in self.factors.items():
            found |= {reader: channels.spread(factors) for reader in channels.readers}
            found |= dict.fromkeys(channels.vectors, np.reciprocal(factors))
        return found

    @functools.cached_property
    def rows(self) -> Mapping[str, Floats]:
        """What each row of a matrix is multiplied by, [experts * n_out], by name."""
        return {
            channels.maker: np.reciprocal(each).reshape(-1)
            for channels, each in self.factors.items()
            if channels.maker is not None
        }

    def of_rows(self, tensor: TensorInfo, start: int = 0, end: int | None = None) -> Floats:
        """Say what some rows of a tensor are multiplied by, float32 [n_rows or 1, n_in or 1]."""
        _, each, experts = rows_of(tensor)
        rows, columns = self.rows.get(tensor.name), self.columns.get(tensor.name)
        found = np.ones((1, 1), np.float32)
        if rows is not None:
            found = rows[start:end, None]
        return found if columns is None else found * of_some_rows(columns, each * experts, start, end)

    @property
    def kinds(self) -> frozenset[str]:
        """What it scales the channels of, in any block."""
        return frozenset(channels.kind for channels in self.factors)

    def only(self, kinds: Collection[str]) -> "Equalization":
        """Leave all channels but those of some kinds as they are."""
        return Equalization({channels: each for channels, each in self.factors.items() if channels.kind in kinds})

    @property
    def exact(self) -> "Equalization":
        """The same channels scaled by 1/2, 1 or 2, whatever their factors: nothing is rounded then."""
        chance = np.random.default_rng(0)
        return Equalization(
            {
                each: np.exp2(chance.integers(-1, 2, (each.experts, each.count))).astype(np.float32)
                for each in self.factors
            }
        )

    @property
    def identity(self) -> str:
        """Name it: the same for the same scales of the same channels."""
        digest = hashlib.sha256()
        for channels, factors in self.factors.items():
            digest.update(f"{_VERSION} {channels}\n".encode() + factors.tobytes())
        return digest.hexdigest()


def of_some_rows(columns: Floats, rows: int, start: int, end: int | None) -> Floats:
    """Return what columns are multiplied by in some of all `rows`: those of one expert after those of another.

    It has one row where all of these have the same.
    """
    end, many = rows if end is None else end, len(columns)
    first, last = start * many // rows, (end - 1) * many // rows
    if first == last:
        return columns[first : first + 1]
    found: Floats = columns[np.arange(start, end) * many // rows]
    return found


def factors_of(
    headers: Sequence[GgufHeader],
    importance: Mapping[str, Floats],
    library: Ggml,
    *,
    threads: int = 1,
    progress: Progress = silent,
) -> Equalization:
    """Find the factors of a model's channels. `importance` has the mean squares of inputs, by name of the matrix.

    Columns are made as large as each other, and then larger the more they add to the outputs: by which power of that is
    tried, and what rounding does to sampled rows decides, weighed as they are used. Channels of which little is gained,
    or whose inputs are not known, are left as they are.

    Raises:
        GgufFileError: a file has become shorter.
    """
    found: dict[Channels, Floats] = {}
    there = channels_of(headers)
    with _Open(headers, library) as model:

        def work(channels: Channels) -> int:
            if all(model.is_plain(name) for name in _named(channels)):
                factors = _best(channels, importance, model, library)
                if factors is not None:
                    found[channels] = factors
            return 1

        def report(done: int) -> None:
            progress(_STAGE, done, len(there), "steps")

        work_through(iter(there), work, threads=threads, report=report)
    return Equalization({channels: found[channels] for channels in there if channels in found})


def _best(channels: Channels, importance: Mapping[str, Floats], model: "_Open", library: Ggml) -> Floats | None:
    squares = _squares(channels, importance, model)
    if squares is None:
        return None
    readers = [_reader(model.some_rows(name, channels.experts), name in importance) for name in channels.readers]
    best, least = None, _BETTER * _loss(readers, squares, None, library)
    for factors in _proposals(channels, readers, squares):
        cost = _loss(readers, squares, channels.spread(factors), library)
        if cost < least:
            best, least = factors, cost
    return best


@dataclass(frozen=True, slots=True)
class _Reader:
    """Rows of a matrix, float32 [experts, n_rows, n_in], each as large as the others, for that changes no block of it.

    `sizes` are the mean squares of columns, float64 [experts, n_in]; `is_measured` says whether the inputs are in the
    importance matrix.
    """

    rows: Floats
    sizes: NDArray[np.float64]
    is_measured: bool


def _reader(rows: Floats, is_measured: bool) -> _Reader:
    each = np.sqrt(np.einsum("erc,erc->er", rows, rows) / rows.shape[2])
    rows /= np.maximum(each, 1e-30)[..., None]
    sizes = np.einsum("erc,erc->ec", rows, rows).astype(np.float64) / rows.shape[1]
    step = max(1, rows.shape[0] * rows.shape[1] // _ROWS_TRIED)
    return _Reader(np.ascontiguousarray(rows[:, ::step]), sizes, is_measured)


def _proposals(channels: Channels, readers: Sequence[_Reader], squares: Floats) -> Iterator[Floats]:
    """Propose factors, float32 [experts, count]; `squares` are those of inputs, [experts, n_in]."""
    sizes = np.zeros((channels.experts, channels.count))
    for reader in readers:
        sizes += channels.gathered(reader.sizes / np.maximum(reader.sizes.mean(axis=1, keepdims=True), 1e-30))
    inputs = channels.gathered(squares.astype(np.float64))
    inputs = np.maximum(inputs, np.maximum(_QUIETEST * inputs.mean(axis=1, keepdims=True), 1e-30))
    is_alive = sizes > 0
    logarithms = np.log(sizes, out=np.zeros_like(sizes), where=is_alive)
    added = np.log(inputs) + logarithms
    limit = np.log(_LARGEST)
    for power in _POWERS:
        wanted = power * added - logarithms / 2
        middle = np.sum(wanted, axis=1, keepdims=True, where=is_alive) / np.maximum(is_alive.sum(axis=1)[:, None], 1)
        # What makes a channel shrinks as it grows. Rows that add much to the outputs lose nothing by that: measured.
        yield _stepped(np.exp(np.where(is_alive, np.clip(wanted - middle, -limit, limit), 0)))


def _stepped(factors: NDArray[np.float64]) -> Floats:
    fractions, exponents = np.frexp(factors)
    found: Floats = np.ldexp(np.rint(fractions * 2 * _STEPS) / (2 * _STEPS), exponents).astype(np.float32)
    return found


def _loss(readers: Sequence[_Reader], squares: Floats, factors: Floats | None, library: Ggml) -> float:
    """Say what rounding loses of the readers' outputs with these factors: 1 for each type and reader is all of it."""
    lost = 0.0
    for reader in readers:
        experts, _, width = reader.rows.shape
        kinds = _TRIALS if width % _TRIALS[0].block_size == 0 else _TRIALS_OF_ODD
        for kind, expert in itertools.product(kinds, range(experts)):
            if width % kind.block_size == 0:
                scale = np.ones(width, np.float32) if factors is None else factors[expert]
                plain, weighing = reader.rows[expert], squares[expert]
                weights = weighing / np.square(scale) if reader.is_measured else None
                stored = through(library, (plain * scale).reshape(-1), kind, width, weights).reshape(plain.shape)
                error = stored / scale - plain
                whole = float((np.square(plain) @ weighing).sum())
                lost += float((np.square(error) @ weighing).sum()) / max(whole, 1e-30) / experts
    return lost


def _named(channels: Channels) -> tuple[str, ...]:
    maker = (channels.maker,) if channels.maker is not None else ()
    return (*channels.vectors, *maker, *channels.readers)


def _squares(channels: Channels, importance: Mapping[str, Floats], model: "_Open") -> Floats | None:
    """Return the squares of what columns are multiplied with, float32 [experts, n_in], in any unit.

    None where nothing says. Where a matrix was not measured, as the output layer is not, its norm tells: what comes out
    of one before it is scaled has channels of about the same size.
    """
    for reader in channels.readers:
        tensor = model.tensor(reader)
        experts = rows_of(tensor)[2]
        each = [importance_of(importance, tensor, expert) for expert in range(experts)]
        known = np.stack([one for one in each if one is not None]) if each[0] is not None else None
        if known is not None:
            return known if channels.experts > 1 else known.mean(axis=0, keepdims=True)
    return None if channels.maker is not None else np.square(model.vector(channels.vectors[0]))[None]


class _Open:
    """The files of a model, open for reading rows. Use it as a context manager."""

    def __init__(self, headers: Sequence[GgufHeader], library: Ggml) -> None:
        self._library = library
        self._tensors = {tensor.name: (header, tensor) for header in headers for tensor in header.tensors}
        self._headers, self._descriptors = headers, dict[str, int]()

    def __enter__(self) -> Self:
        for header in self._headers:
            self._descriptors[str(header.path)] = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def tensor(self, name: str) -> TensorInfo:
        """Return a tensor by its name."""
        return self._tensors[name][1]

    def is_plain(self, name: str) -> bool:
        """Whether a tensor's elements are numbers of their own, which can be scaled."""
        return self._tensors[name][1].type in PLAIN

    def vector(self, name: str) -> Floats:
        """Return all elements of a vector."""
        header, tensor = self._tensors[name]
        content = read_bytes(self._descriptors[str(header.path)], header, tensor, 0, tensor.size)
        return to_float32(self._library, content, tensor.type)

    def some_rows(self, name: str, experts: int) -> Floats:
        """Return rows of a matrix, evenly over all of it or over each of its experts, float32 [experts, n_rows, n_in].

        `experts` is 1 or as many as the matrix has.
        """
        header, tensor = self._tensors[name]
        columns, _, stacked = rows_of(tensor)
        wanted = max(_ROWS_SEEN, min(_ROWS_SEEN * experts, _ROWS_TRIED), _ROWS_OF_EXPERT * experts)
        descriptor = self._descriptors[str(header.path)]
        found = [sampled(self._library, descriptor, header, tensor, expert, wanted) for expert in range(stacked)]
        return np.concatenate(found).reshape(experts, -1, columns)
