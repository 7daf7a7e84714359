"""What an importance matrix holds: sums of squared activations, which tensors and experts they reach, statistics."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.quantization.imatrix import coverage
from ggufkit.quantization.legacy_imatrix import read_legacy

Array = NDArray[Any]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_ACTIVE = 1e-5  # tools/imatrix/imatrix.cpp, compute_statistics: a smaller mean square is none
_BLOCK = re.compile(r"(?<=blk\.)\d+(?=\.)")
_NEVER_MEASURED = ("_norm", "ffn_gate_inp", "nextn.", "attn_rel_b")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor. `sums` is float32 [experts, columns]: sums of squares; `counts` [experts]: over how many tokens."""

    sums: Array
    counts: Array


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was not reached. `experts` names, for each tensor, those that no token was sent to.

    `least` is the smallest number of tokens that any expert saw (of the reached ones).
    """

    tensors: int
    missing: tuple[str, ...]
    experts: Mapping[str, tuple[int, ...]]
    least: int

    @property
    def is_complete(self) -> bool:
        """Whether every tensor and every expert was reached."""
        return not self.missing and not self.experts


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Statistics of one tensor's mean squared activations, as llama-imatrix defines them (tools/imatrix/README.md).

    `active` is the fraction above 1e-5; `entropy` is in bits, `normalized_entropy` 0 to 1; `outliers` the fraction
    more than one standard deviation above the mean (its ZD score); `similarity` the cosine with the same tensor of the
    block before, 0 where there is none.
    """

    tensor: str
    total: float
    least: float
    greatest: float
    mean: float
    deviation: float
    active: float
    count: int
    entropy: float
    normalized_entropy: float
    outliers: float
    similarity: float


def read_entries(path: Path) -> Mapping[str, Entry]:
    """Read a matrix of either format; in the older one, counts are calls and not tokens.

    Raises:
        InputError: it is no importance matrix, or its sizes contradict each other.
    """
    coverage(path, any_length=True)  # checks the form
    with opened(path) as file:
        is_gguf = file.take(4, "the first four bytes") == b"GGUF"
    return _from_gguf(path) if is_gguf else _from_legacy(path)


def _from_gguf(path: Path) -> Mapping[str, Entry]:
    header = read_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    entries = {}
    for name in sorted(tensors):
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        if base + _COUNTS not in tensors:
            raise InputError(f"{path}: {name!r} has no counts beside it")
        sums, counts = _floats(header, tensors[name]), _floats(header, tensors[base + _COUNTS])
        if not counts.size or sums.size % counts.size:
            raise InputError(f"{path}: {name!r} has {sums.size} values, which {counts.size} counts do not divide")
        entries[base] = Entry(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))
    return entries


def _floats(header: GgufHeader, tensor: TensorInfo) -> Array:
    with opened(header.path) as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.take(tensor.size, f"the values of {tensor.name!r}"), "<f4")


def _from_legacy(path: Path) -> Mapping[str, Entry]:
    raw, _, _ = read_legacy(path)
    return {
        name: Entry(sums.reshape(1, -1), np.array([max(0, calls)], np.int64)) for name, (calls, sums) in raw.items()
    }


def measurable(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Choose the tensors that llama-imatrix measures: the matrices of the blocks that a forward pass goes through."""
    tensors = list(tensors)
    skipped = {found[0] for tensor in tensors if "nextn." in tensor.name and (found := _BLOCK.search(tensor.name))}
    return [
        tensor
        for tensor in tensors
        if tensor.name.startswith("blk.")
        and tensor.name.endswith(".weight")
        and len(tensor.shape) > 1
        and not any(part in tensor.name for part in _NEVER_MEASURED)
        and (found := _BLOCK.search(tensor.name)) is not None
        and found[0] not in skipped
    ]


def reached(entries: Mapping[str, Entry], tensors: Iterable[TensorInfo]) -> Coverage:
    """Compare a matrix with the tensors of its model."""
    wanted = measurable(tensors)
    missing, experts, least = [], {}, []
    for tensor in wanted:
        entry = entries.get(tensor.name)
        if entry is None or not entry.counts.any():
            missing.append(tensor.name)
            continue
        if silent := tuple(int(number) for number in np.flatnonzero(entry.counts == 0)):
            experts[tensor.name] = silent
        least.append(int(entry.counts[entry.counts > 0].min()))
    return Coverage(len(wanted), tuple(missing), experts, min(least, default=0))


def statistics(entries: Mapping[str, Entry]) -> tuple[TensorStatistics, ...]:
    """Compute the statistics of every tensor that was reached, in the order of blocks and names."""
    return tuple(
        _statistics(name, entry, entries) for name, entry in sorted(entries.items(), key=_place) if entry.counts.any()
    )


def _place(item: tuple[str, Entry]) -> tuple[int, str]:
    found = _BLOCK.search(item[0])
    return (int(found[0]) if found else -1, item[0])


def _statistics(name: str, entry: Entry, entries: Mapping[str, Entry]) -> TensorStatistics:
    used = entry.counts > 0
    means = (entry.sums[used].astype(np.float64) / entry.counts[used][:, None]).reshape(-1)
    total, deviation = float(means.sum()), float(means.std())
    shares = means[means > 0] / total if total > 0 else means[:0]
    entropy = float(-(shares * np.log2(shares)).sum())
    outliers = float((means > means.mean() + deviation).mean()) if deviation else 0.0
    return TensorStatistics(
        tensor=name,
        total=total,
        least=float(means.min()),
        greatest=float(means.max()),
        mean=float(means.mean()),
        deviation=deviation,
        active=float((means > _ACTIVE).mean()),
        count=int(means.size),
        entropy=entropy,
        normalized_entropy=entropy / float(np.log2(means.size)) if means.size > 1 else 0.0,
        outliers=outliers,
        similarity=_similarity(name, entry, entries),
    )


def _similarity(name: str, entry: Entry, entries: Mapping[str, Entry]) -> float:
    found = _BLOCK.search(name)
    before = entries.get(_BLOCK.sub(str(int(found[0]) - 1), name, count=1)) if found else None
    if before is None or before.sums.size != entry.sums.size:
        return 0.0
    ours, theirs = entry.sums.reshape(-1).astype(np.float64), before.sums.reshape(-1).astype(np.float64)
    length = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / length if length else 0.0


def check_mergeable(paths: Sequence[Path]) -> None:
    """Refuse to merge matrices of different models.

    Raises:
        InputError: naming the file and the tensor whose sizes differ, or that they have nothing in common.
    """
    first = coverage(paths[0], any_length=True)
    for path in paths[1:]:
        other = coverage(path, any_length=True)
        common = first.keys() & other.keys()
        if not common:
            raise InputError(f"{path} and {paths[0]} have no tensor in common: they are of different models")
        for name in sorted(common):
            if first[name] != other[name]:
                raise InputError(
                    f"{path} has {other[name]:,} values for {name!r}, and {paths[0]} {first[name]:,}: they are of"
                    " different models"
                )
