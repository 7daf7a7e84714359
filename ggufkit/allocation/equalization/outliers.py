"""Which channels lie far from the others, and by which powers of two they are scaled."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.weights import PLAIN, Floats, read_bytes, row_bytes, through, to_float32
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml

Exponents = NDArray[np.int8]

_VERSION = 1  # of how weights are scaled
_ROWS = 64  # of a matrix, evenly over all: enough to see the size of its columns
_MOST = 8
# From which exponent a channel is scaled, and how many times the usual its inputs must be at least.
_TRIED = ((2, 2.0), (2, 1.0), (1, 2.0), (1, 1.0))
_TRIAL, _TRIAL_OF_ODD = TensorType.Q4_K, TensorType.Q4_0
_BETTER = 0.95  # of the loss must remain at most, with each bolder choice


@dataclass(frozen=True, slots=True)
class Equalization:
    """Exponents of two, by channels: what makes a channel is multiplied by 2^-exponent, what reads it by 2^exponent."""

    exponents: Mapping[Channels, Exponents]

    @property
    def count(self) -> int:
        """How many channels are scaled."""
        return sum(int(np.count_nonzero(each)) for each in self.exponents.values())

    @property
    def columns(self) -> Mapping[str, Exponents]:
        """What is added to the exponents of each column of a matrix, or element of a vector, by name."""
        found: dict[str, Exponents] = {}
        for channels, exponents in self.exponents.items():
            found |= {reader: channels.spread(exponents) for reader in channels.readers}
            found |= dict.fromkeys(channels.vectors, -exponents)
        return found

    @property
    def rows(self) -> Mapping[str, Exponents]:
        """What is added to the exponents of each row of a matrix, by name."""
        return {channels.maker: -each for channels, each in self.exponents.items() if channels.maker is not None}

    def added(self, name: str, start: int = 0, end: int | None = None) -> NDArray[np.int32]:
        """Say what is added to the exponents of some rows of a tensor, int32 [n_rows or 1, n_in or 1]."""
        rows, columns = self.rows.get(name), self.columns.get(name)
        found = np.zeros((1, 1), np.int32)
        if rows is not None:
            found = found + rows[start:end, None]
        return found if columns is None else found + columns

    @property
    def identity(self) -> str:
        """Name it: the same for the same scales of the same channels."""
        digest = hashlib.sha256()
        for channels, exponents in self.exponents.items():
            digest.update(f"{_VERSION} {channels} {exponents.tolist()}\n".encode())
        return digest.hexdigest()


def outliers(headers: Sequence[GgufHeader], importance: Mapping[str, Floats], library: Ggml) -> Equalization:
    """Find the channels of a model whose scales cost the most. `importance` has the mean squares of inputs, by name.

    A channel is scaled where its columns are smaller than usual and its inputs larger, or the other way about. How far
    from the usual it has to be is tried: what rounding then does to sampled rows decides, weighed as they are used.
    Channels whose inputs are not known are left as they are.

    Raises:
        GgufFileError: a file has become shorter.
    """
    found: dict[Channels, Exponents] = {}
    with _Open(headers, library) as model:
        for channels in channels_of(headers):
            if not all(model.is_plain(name) for name in _named(channels)):
                continue
            squares = _squares(channels, importance, model)
            if squares is None:
                continue
            rows = {reader: model.some_rows(reader) for reader in channels.readers}
            measured = {reader: squares if reader in importance else None for reader in rows}
            if not (proposals := list(_proposals(channels, rows, squares))):
                continue
            best, least = None, _loss(channels, rows, squares, measured, None, library)
            for exponents in proposals:
                cost = _loss(channels, rows, squares, measured, exponents, library)
                if cost < _BETTER * least:
                    best, least = exponents, cost
            if best is not None:
                found[channels] = best
    return Equalization(found)


def _proposals(channels: Channels, rows: Mapping[str, Floats], squares: Floats) -> Iterator[Exponents]:
    """Propose exponents, int8 [count], careful ones first."""
    columns = np.zeros(channels.count)
    for each in rows.values():
        sizes = channels.gathered(np.square(each.astype(np.float64)).mean(axis=0))
        columns += sizes / max(float(np.median(sizes)), 1e-30)
    inputs = np.sqrt(channels.gathered(squares.astype(np.float64)))
    loud = inputs / max(float(np.median(inputs)), 1e-30)
    with np.errstate(divide="ignore"):
        wanted = np.rint(-np.log2(columns / len(rows)) / 2)
    told: list[bytes] = []
    for least, louder in _TRIED:
        matters = ((wanted >= least) & (loud >= louder)) | ((wanted <= -least) & (loud <= 1 / louder))
        exponents = np.where(matters & np.isfinite(wanted), np.clip(wanted, -_MOST, _MOST), 0).astype(np.int8)
        if exponents.any() and exponents.tobytes() not in told:
            told.append(exponents.tobytes())
            yield exponents


def _loss(
    channels: Channels,
    rows: Mapping[str, Floats],
    squares: Floats,
    measured: Mapping[str, Floats | None],
    exponents: Exponents | None,
    library: Ggml,
) -> float:
    """Say what rounding loses of the readers' outputs with these exponents: 1 for each reader is all of it."""
    spread = channels.spread(np.zeros(channels.count, np.int8) if exponents is None else exponents).astype(np.int32)
    lost = 0.0
    for reader, plain in rows.items():
        kind = _TRIAL if plain.shape[1] % _TRIAL.block_size == 0 else _TRIAL_OF_ODD
        if plain.shape[1] % kind.block_size:
            continue
        weighing = measured[reader]
        values = np.ldexp(plain, spread)
        weights = None if weighing is None else np.ldexp(weighing, -2 * spread)
        stored = through(library, values.reshape(-1), kind, plain.shape[1], weights).reshape(plain.shape)
        error = np.ldexp(stored, -spread) - plain
        lost += float((np.square(error) @ squares).sum() / max(float((np.square(plain) @ squares).sum()), 1e-30))
    return lost


def _named(channels: Channels) -> tuple[str, ...]:
    maker = (channels.maker,) if channels.maker is not None else ()
    return (*channels.vectors, *maker, *channels.readers)


def _squares(channels: Channels, importance: Mapping[str, Floats], model: "_Open") -> Floats | None:
    """Return the squares of what columns are multiplied with, float32 [n_in], in any unit; None where nothing says.

    Where a matrix was not measured, as the output layer is not, its norm tells: what comes out of one before it is
    scaled has channels of about the same size.
    """
    for reader in channels.readers:
        squares = importance.get(reader)
        if squares is None:
            continue
        width = channels.count * channels.repeats
        if squares.size % width == 0:
            mean: Floats = squares.reshape(-1, width).mean(axis=0)
            return mean
    return None if channels.maker is not None else np.square(model.vector(channels.vectors[0]))


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

    def is_plain(self, name: str) -> bool:
        """Whether a tensor's elements are numbers of their own, whose exponents can be changed."""
        return self._tensors[name][1].type in PLAIN

    def vector(self, name: str) -> Floats:
        """Return all elements of a vector."""
        header, tensor = self._tensors[name]
        return self._read(header, tensor, 0, tensor.size)

    def some_rows(self, name: str) -> Floats:
        """Return rows of a matrix, evenly over all of it, float32 [n_rows, n_in]."""
        header, tensor = self._tensors[name]
        columns, size = tensor.shape[0], row_bytes(tensor.type, tensor.shape[0])
        rows = tensor.elements // columns
        places = sorted({number * rows // _ROWS for number in range(_ROWS)})
        found = [self._read(header, tensor, place * size, size) for place in places]
        return np.concatenate(found).reshape(len(places), columns)

    def _read(self, header: GgufHeader, tensor: TensorInfo, start: int, size: int) -> Floats:
        content = read_bytes(self._descriptors[str(header.path)], header, tensor, start, size)
        return to_float32(self._library, content, tensor.type)
