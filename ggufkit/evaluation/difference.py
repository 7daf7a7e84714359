"""Two GGUF models side by side, by meaning: what their metadata say, which tensors they have, and what these hold.

Values are compared as numbers, whatever types they are stored in. "Rounding" is a difference that the types of both
sides explain: half a unit in the last place of F16 or BF16, or twice the error that a quantized type was measured to
have on a whole tensor. What is more than that is "different".
"""

import math
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.crew import work_through
from ggufkit.errors import GgufFileError
from ggufkit.evaluation.error_bounds import BOUNDS, LARGEST_RELATIVE_ERROR
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, Metadata, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.gguf_file.windowed_file import WindowedFile, opened
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.progress import Progress, silent

_ELEMENTS = 1 << 18  # compared at a time; a multiple of every type's block
_FEW = 16  # elements of an array that are shown
_OF_FILES = ("split.*", "general.alignment")  # how a model is cut into files, not what it is
_OF_QUANTIZING = ("general.file_type", "general.quantization_version", "quantize.*")
# Half a unit in the last place, relative; and half the smallest subnormal number of F16.
_PLAIN = {TensorType.F32: 2.0**-24, TensorType.F16: 2.0**-11, TensorType.BF16: 2.0**-8, TensorType.F64: 2.0**-24}
_SMALLEST = {TensorType.F16: 2.0**-25}


class Values(StrEnum):
    """How the values of a tensor on one side are to those on the other."""

    IDENTICAL = "identical"
    ROUNDING = "rounding"
    DIFFERENT = "different"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True, slots=True)
class MetadataDifference:
    """A key whose values mean something else: None where a side has none; of arrays what tells them apart."""

    key: str
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor that is not the same on both sides; shape and type None where it is missing.

    `relative_error` is sqrt(sum (y - x)^2 / sum x^2) over the tensor, `largest` the largest |y - x|.
    """

    name: str
    left_shape: tuple[int, ...] | None
    right_shape: tuple[int, ...] | None
    left_type: str | None
    right_type: str | None
    values: Values
    relative_error: float | None = None
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What two models differ in; `tensors` counts those that both have, `identical` those of them with equal values."""

    metadata: tuple[MetadataDifference, ...]
    tensors: tuple[TensorDifference, ...]
    compared: int
    identical: int

    def is_nothing(self, *, rounding: bool = False) -> bool:
        """Whether they mean the same; with `rounding`, also when types differ, values by rounding, and what says so."""
        if not rounding:
            return not self.metadata and not self.tensors
        named = [each for each in self.metadata if not _matches(each.key, _OF_QUANTIZING)]
        kinds = {Values.IDENTICAL, Values.ROUNDING}
        return not named and all(each.values in kinds and each.left_shape == each.right_shape for each in self.tensors)


def compare(
    left: Path,
    right: Path,
    *,
    ignored: Collection[str] = (),
    with_values: bool = True,
    threads: int = 1,
    progress: Progress = silent,
) -> Difference:
    """Compare two GGUF models; of split ones all parts. `ignored` are shell patterns of metadata keys.

    Raises:
        GgufFileError: a file is missing, malformed or changes meanwhile.
    """
    sides = read_parts(left), read_parts(right)
    metadata = _metadata(sides[0][0].metadata, sides[1][0].metadata, (*_OF_FILES, *ignored))
    tensors = [{t.name: (h, t) for h in headers for t in h.tensors} for headers in sides]
    common = [name for name in tensors[0] if name in tensors[1]]
    found: dict[str, TensorDifference] = {}
    for name in [*(n for n in tensors[0] if n not in tensors[1]), *(n for n in tensors[1] if n not in tensors[0])]:
        one, other = tensors[0].get(name), tensors[1].get(name)
        found[name] = _unequal(name, one[1] if one else None, other[1] if other else None)
    pairs = []
    for name in common:
        one, other = tensors[0][name], tensors[1][name]
        if one[1].shape != other[1].shape or (not with_values and one[1].type != other[1].type):
            found[name] = _unequal(name, one[1], other[1])
        elif with_values:
            pairs.append((one, other))
    found |= _values(pairs, threads, progress)
    order = {name: place for place, name in enumerate([*tensors[0], *tensors[1]])}
    listed = tuple(sorted(found.values(), key=lambda each: order[each.name]))
    unlike = {each.name for each in listed if each.values is not Values.IDENTICAL}
    return Difference(metadata, listed, len(common), len([name for name in common if name not in unlike]))


def _metadata(left: Metadata, right: Metadata, ignored: Collection[str]) -> tuple[MetadataDifference, ...]:
    found = []
    for key in dict.fromkeys([*left, *right]):
        if _matches(key, ignored):
            continue
        if key not in left.entries or key not in right.entries:
            found.append(MetadataDifference(key, _shown(left, key), _shown(right, key)))
        elif told := _told_apart(left, right, key):
            found.append(MetadataDifference(key, *told))
    return tuple(found)


def _told_apart(left: Metadata, right: Metadata, key: str) -> tuple[str, str] | None:
    """Compare one key; numbers by value and not by width. Long arrays are compared as bytes first."""
    one, other = left.entries[key], right.entries[key]
    alike = (one.kind, one.element_kind, one.count, one.size) == (
        other.kind,
        other.element_kind,
        other.count,
        other.size,
    )
    if alike and all(a == b for a, b in zip(left.raw(key), right.raw(key), strict=True)):
        return None
    x, y = left[key], right[key]
    numbers = not {bool, str, list} & {type(x), type(y)}
    if (numbers or type(x) is type(y)) and _as_single(x) == _as_single(y):
        return None
    if not isinstance(x, list) or not isinstance(y, list):
        return _short(x), _short(y)
    if len(x) <= _FEW and len(y) <= _FEW:
        return _short(x), _short(y)
    if len(x) != len(y):
        return f"{len(x):,} elements", f"{len(y):,} elements"
    places = [place for place, (a, b) in enumerate(zip(x, y, strict=True)) if a != b]
    told = f"{len(places):,} of {len(x):,} differ, first at {places[0]:,}: "
    return told + _short(x[places[0]]), told + _short(y[places[0]])


def _as_single(value: Any) -> Any:
    """Numbers with a fraction are told apart as single precision does: files differ in how wide they store them."""
    return np.float32(value) if isinstance(value, float) else value


def _shown(metadata: Metadata, key: str) -> str | None:
    entry = metadata.entries.get(key)
    if entry is None:
        return None
    return _short(metadata[key]) if entry.element_kind is None or entry.count <= _FEW else f"{entry.count:,} elements"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}… ({len(text):,} characters)"


def _matches(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _unequal(name: str, left: TensorInfo | None, right: TensorInfo | None, **found: Any) -> TensorDifference:
    return TensorDifference(
        name,
        left.shape if left else None,
        right.shape if right else None,
        left.type.name if left else None,
        right.type.name if right else None,
        **{"values": Values.NOT_COMPARED, **found},
    )


Side = tuple[GgufHeader, TensorInfo]


def _values(pairs: Sequence[tuple[Side, Side]], threads: int, progress: Progress) -> Mapping[str, TensorDifference]:
    found: dict[str, TensorDifference] = {}
    lock = threading.Lock()
    total = sum(one[1].size for one, _ in pairs)
    with ExitStack() as stack:
        files: dict[Path, WindowedFile] = {}
        for header, _ in (side for pair in pairs for side in pair):
            if header.path not in files:
                files[header.path] = stack.enter_context(opened(header.path))

        def work(pair: tuple[Side, Side]) -> int:
            (one_file, one), (other_file, other) = pair
            sums = _sums((files[one_file.path], one), (files[other_file.path], other))
            verdict = sums.verdict(one.type, other.type)
            if verdict is not Values.IDENTICAL or one.type != other.type:
                with lock:
                    found[one.name] = _unequal(
                        one.name, one, other, values=verdict, relative_error=sums.relative, largest=sums.largest
                    )
            return one.size

        work_through(pairs, work, threads=threads, report=lambda done: progress("Comparing", done, total))
    return found


@dataclass(slots=True)
class _Sums:
    """What is summed over a tensor; `beyond` says that some element is further off than two plain types explain."""

    error: float = 0.0
    square: float = 0.0
    largest: float = 0.0
    beyond: bool = False
    broken: bool = False  # a value is not finite on one side only

    @property
    def relative(self) -> float | None:
        if self.broken:
            return None
        return math.sqrt(self.error / self.square) if self.square else (math.inf if self.error else 0.0)

    def verdict(self, left: TensorType, right: TensorType) -> Values:
        relative = self.relative
        if relative is None:
            return Values.DIFFERENT
        if self.error == 0:
            return Values.IDENTICAL
        if left in _PLAIN and right in _PLAIN:
            return Values.DIFFERENT if self.beyond else Values.ROUNDING
        errors = [BOUNDS[kind].typical if kind in BOUNDS else _PLAIN.get(kind, 0.0) for kind in (left, right)]
        limit = min(LARGEST_RELATIVE_ERROR, 2 * math.hypot(*errors))
        return Values.ROUNDING if relative <= limit else Values.DIFFERENT


def _sums(left: tuple[WindowedFile, TensorInfo], right: tuple[WindowedFile, TensorInfo]) -> _Sums:
    sums = _Sums()
    elements = left[1].elements
    pieces = [(start, min(_ELEMENTS, elements - start)) for start in range(0, elements, _ELEMENTS)]
    alike = left[1].type == right[1].type
    if alike and all(np.array_equal(_piece(*left, *piece), _piece(*right, *piece)) for piece in pieces):
        return sums
    allowed = _PLAIN.get(left[1].type, 0.0) + _PLAIN.get(right[1].type, 0.0)
    least = _SMALLEST.get(left[1].type, 0.0) + _SMALLEST.get(right[1].type, 0.0)
    for start, count in pieces:
        try:
            x = dequantize(_piece(*left, start, count), int(left[1].type), count).astype(np.float64)
            y = dequantize(_piece(*right, start, count), int(right[1].type), count).astype(np.float64)
        except NotImplementedError:  # integers, which are no weights: other bytes are other values
            sums.broken = True
            return sums
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if not (finite | same).all():
            sums.broken = True
            return sums
        x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        off = np.abs(y - x)
        sums.error += float(np.square(off).sum())
        sums.square += float(np.square(x).sum())
        sums.largest = max(sums.largest, float(off.max(initial=0.0)))
        sums.beyond |= bool((off > allowed * np.maximum(np.abs(x), np.abs(y)) * (1 + 2.0**-20) + least).any())
    return sums


def _piece(file: WindowedFile, tensor: TensorInfo, start: int, count: int) -> NDArray[np.uint8]:
    block, size = tensor.type.block_size, tensor.type.block_bytes
    offset, length = tensor.offset + start // block * size, -(-count // block) * size
    content = os.pread(file.descriptor, length, offset)
    if len(content) != length:
        raise GgufFileError(f"{file.path} became shorter while it was read (at tensor {tensor.name!r})")
    return np.frombuffer(content, np.uint8)
