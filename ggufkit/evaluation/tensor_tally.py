"""What is known so far about one tensor that is compared with the checkpoint, and what is wrong with it."""

import math
import os
import threading
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ggufkit.conversion.elements import encode
from ggufkit.counting import counted
from ggufkit.errors import GgufFileError
from ggufkit.evaluation import blocks
from ggufkit.evaluation.error_bounds import BOUNDS, LARGEST_RELATIVE_ERROR
from ggufkit.gguf_file.reader import TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize

Array = NDArray[Any]

PLAIN = {TensorType.F32, TensorType.F16, TensorType.BF16}
_SAMPLE_BLOCKS = 64


class Tally:
    """What is known so far about one tensor; rows come from several threads."""

    def __init__(self, info: TensorInfo, file: int) -> None:
        self.info = info
        self._file = file
        self._lock = threading.Lock()
        self._route: str | None = None
        self._route_chosen = False
        self.different = 0  # elements, or blocks
        self.damaged: list[int] = []
        self._first: tuple[int, float, float] | None = None
        self._squared_error = self._squared_weights = 0.0
        self.worst = 0.0
        self.worst_block = 0

    @property
    def is_exact(self) -> bool:
        """Whether no bit differs from what ggml makes of the checkpoint's weights."""
        return self.different == 0

    @property
    def is_remade(self) -> bool:
        """Whether ggml was found to make just these blocks, all or nearly all of them."""
        return self._route is not None

    @property
    def relative_error(self) -> float:
        """sqrt(sum (y - x)^2 / sum x^2)."""
        if not math.isfinite(self._squared_error):
            return math.inf
        return math.sqrt(self._squared_error / self._squared_weights) if self._squared_weights else 0.0

    def take(self, start: int, weights: Array) -> None:
        """Compare whole rows: float32 `weights`, from element `start` of the tensor on."""
        if self.info.type in PLAIN:
            self._take_plain(start, weights)
        else:
            self._take_blocks(start, weights)

    def _take_plain(self, start: int, weights: Array) -> None:
        width = self.info.type.block_bytes
        stored = self._read(start * width, weights.size * width).view(f"<u{width}")
        made = encode(weights, "F32", GGMLQuantizationType(self.info.type), weights.size).view(f"<u{width}")
        places = np.flatnonzero(stored != made)
        if not places.size:
            with self._lock:
                self._squared_weights += float(np.square(weights, dtype=np.float64).sum())
            return
        found = dequantize(stored.view(np.uint8), int(self.info.type), weights.size)
        with self._lock, np.errstate(over="ignore", invalid="ignore"):
            at = int(places[0])
            if self._first is None or start + at < self._first[0]:
                self._first = start + at, float(found[at]), float(weights[at])
            self.different += places.size
            self._squared_error += float(np.square(found - weights, dtype=np.float64).sum())
            self._squared_weights += float(np.square(weights, dtype=np.float64).sum())

    def _take_blocks(self, start: int, weights: Array) -> None:
        kind = self.info.type
        first = start // kind.block_size
        count = weights.size // kind.block_size
        stored = self._read(first * kind.block_bytes, count * kind.block_bytes).reshape(count, -1)
        with self._lock:
            if not self._route_chosen:
                self._route = _route_of(weights, stored, kind, self.info.shape[0])
                self._route_chosen = True
        made = None
        if self._route is not None:
            made = blocks.requantize(blocks.by_route(weights, self._route), kind, self.info.shape[0])
            blocks.try_other_routes(weights, stored, made, kind)
        found = blocks.compare(weights, stored, made, kind)
        with self._lock:
            self.different += found.different.size
            self.damaged += [first + int(block) for block in found.damaged]
            self._squared_error += found.squared_error
            self._squared_weights += found.squared_weights
            if found.worst > self.worst:
                self.worst, self.worst_block = found.worst, first + found.worst_block

    def _read(self, offset: int, size: int) -> Array:
        data = os.pread(self._file, size, self.info.offset + offset)
        if len(data) != size:
            raise GgufFileError(f"the file became shorter while tensor {self.info.name!r} was read")
        return np.frombuffer(data, np.uint8)

    def faults(self, *, few: bool) -> list[str]:
        """Say what is wrong with it, if anything; `few`: hardly any block of the whole file differs from ggml's."""
        info = self.info
        if info.type in PLAIN:
            if self._first is None:
                return []
            at, found, wanted = self._first
            where = f"{self.different:,} of {info.elements:,} elements differ, the first is element {at:,}"
            return [f"{info.name} ({info.type.name}): {where}: {found:g}, expected {wanted:g}"]
        total = info.elements // info.type.block_size
        if self.damaged:
            where = (
                f"{len(self.damaged):,} of {counted(total, 'block')} damaged, the first is block {min(self.damaged):,}"
            )
            worst = f"block {self.worst_block:,} is off by {self.worst:.2%} of its largest weight"
            bound = f"bound {BOUNDS[info.type].limit(weighted=not self.is_remade):.1%}"
            return [f"{info.name} ({info.type.name}): {where}; {worst}, {bound}"]
        if few and self.is_remade and self.different:
            return [f"{info.name} ({info.type.name}): {self.different} of {total:,} blocks differ from libggml's"]
        if not self.relative_error <= LARGEST_RELATIVE_ERROR:
            return [f"{info.name} ({info.type.name}) is off by {self.relative_error:.1%}"]
        return []

    def figures(self) -> dict[str, Any]:
        """What was measured, for `--json`."""
        bound = BOUNDS.get(self.info.type)
        return {
            "name": self.info.name,
            "type": self.info.type.name,
            "exact": self.is_exact,
            "different": self.different,
            "damaged_blocks": sorted(self.damaged)[:100],
            "relative_error": self.relative_error,
            "worst_block": self.worst_block if bound else None,
            "worst_block_error": self.worst if bound else None,
            "block_bound": bound.limit(weighted=not self.is_remade) if bound else None,
        }


def _route_of(weights: Array, stored: Array, kind: TensorType, columns: int) -> str | None:
    """Find out by a sample how the blocks were made: of float32, or of F16 or BF16 on the way; None: otherwise."""
    if not blocks.can_requantize(kind):
        return None
    row_blocks = columns // kind.block_size
    rows = max(1, _SAMPLE_BLOCKS // row_blocks)
    sample, wanted = weights[: rows * columns], stored[: rows * row_blocks]
    best, route = 0.5, None
    for candidate in blocks.ROUTES:
        made = blocks.requantize(blocks.by_route(sample, candidate), kind, columns)
        share = float((made == wanted).all(axis=1).mean())
        if share > best:
            best, route = share, candidate
    return route
