"""The values of an importance matrix, as llama-quantize uses them: how much each column of a tensor counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.quantization.imatrix import coverage
from ggufkit.quantization.legacy_imatrix import read_legacy

Values = NDArray[np.float32]

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """What one file says.

    `values` has, for each tensor, float32 of columns * experts elements, the experts one after the other: the mean
    square of what is multiplied with each column. `datasets` are the names of the texts, `chunks` how many were read.
    """

    path: Path
    values: Mapping[str, Values]
    datasets: tuple[str, ...]
    chunks: int

    def only(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> "ImportanceMatrix":
        """Keep the tensors whose name holds one of `include`, or (without any) none of `exclude`."""
        names = {name for name in self.values if not any(part in name for part in exclude)}
        if wanted := list(include):
            names = {name for name in names if any(part in name for part in wanted)}
        values = {name: values for name, values in self.values.items() if name in names}
        return ImportanceMatrix(self.path, values, self.datasets, self.chunks)


def load_importance(path: Path) -> ImportanceMatrix:
    """Read an importance matrix, a GGUF file or one of the older format.

    The means are computed in float32, as llama-quantize does (tools/quantize/quantize.cpp, load_imatrix): the last
    bit of a value may decide a rounding.

    Raises:
        InputError: it is none, or holds values that are not finite.
    """
    coverage(path)  # checks the file's form, whichever it is
    with opened(path) as file:
        is_gguf = file.take(4, "the first four bytes") == b"GGUF"
    matrix = _from_gguf(path) if is_gguf else _from_legacy(path)
    for name, values in matrix.values.items():
        if not np.isfinite(values).all():
            raise InputError(f"{path}: the values for {name!r} are not finite", hint="make the importance matrix again")
    return matrix


def _from_gguf(path: Path) -> ImportanceMatrix:
    header = read_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    values: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        counts_info = tensors.get(name.removesuffix(_SUMS) + _COUNTS)
        if counts_info is None or tensor.type is not TensorType.F32 or counts_info.type is not TensorType.F32:
            raise InputError(f"{path}: {name!r} has no counts of the type F32 beside it")
        sums, counts = _floats(header, tensor), np.rint(_floats(header, counts_info)).astype(np.float32)
        if not counts.size or sums.size % counts.size:
            raise InputError(f"{path}: {name!r} has {sums.size} values, which {counts.size} counts do not divide")
        used = counts > 0
        means = sums.reshape(counts.size, -1) / np.where(used, counts, np.float32(1))[:, None]
        means[~used] = 1
        values[name.removesuffix(_SUMS)] = means.reshape(-1)
    datasets = header.metadata.get("imatrix.datasets", [])
    chunks = header.metadata.get("imatrix.chunk_count", 0)
    return ImportanceMatrix(
        path,
        values,
        tuple(str(name) for name in datasets) if isinstance(datasets, list) else (),
        chunks if isinstance(chunks, int) else 0,
    )


def _floats(header: GgufHeader, tensor: TensorInfo) -> Values:
    with opened(header.path) as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.take(tensor.size, f"the values of {tensor.name!r}"), "<f4")


def _from_legacy(path: Path) -> ImportanceMatrix:
    raw, chunks, datasets = read_legacy(path)
    values = {name: sums / np.float32(calls) if calls > 0 else sums for name, (calls, sums) in raw.items()}
    return ImportanceMatrix(path, values, datasets, chunks)
