"""Every tensor of a GGUF file against the checkpoint, through the conversion's own plan; streamed, in pieces.

What the file should hold is made anew from the checkpoint by the rules of the architecture, as float32. Tensors of F32,
F16 and BF16 must equal it bit for bit once encoded. Quantized ones are made again by libggml and must equal that, or,
when they were quantized in another way (with an importance matrix, say), lie within the bounds of `error_bounds.py`.
"""

import contextlib
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ggufkit.conversion.elements import encode
from ggufkit.conversion.execute import stream
from ggufkit.conversion.plan import ConversionPlan
from ggufkit.counting import counted
from ggufkit.errors import GgufFileError
from ggufkit.evaluation import blocks
from ggufkit.evaluation.error_bounds import BOUNDS, LARGEST_RELATIVE_ERROR
from ggufkit.evaluation.kept import find_kept
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.progress import Progress

NAME = "tensors"
Array = NDArray[Any]

_PLAIN = {TensorType.F32, TensorType.F16, TensorType.BF16}
_SHOWN = 8
_SAMPLE_BLOCKS = 64
# Blocks that differ from libggml's and are no worse: another machine's rounding makes many, never so few.
_FEW_BLOCKS = 3


def check_tensors(
    plan: ConversionPlan,
    parts: Sequence[GgufHeader],
    *,
    sourced: ConversionPlan | None = None,
    threads: int,
    progress: Progress,
) -> Check:
    """Compare all tensors; `plan` must be one to F32, `parts` the headers of the model's files.

    `sourced` is the plan that keeps the blocks of a checkpoint which others had quantized: what equals those is exact.

    Raises:
        CheckpointError: the checkpoint cannot be read, or holds elements that are not finite.
        GgufFileError: the file cannot be read.
    """
    with _open_all(parts) as files:
        stored = {info.name: (info, file) for header, file in files for info in header.tensors}
        planned = {tensor.name: tensor for tensor in plan.layout.tensors}
        same = find_kept(sourced, stored, threads=threads, progress=progress) if sourced else frozenset[str]()
        stored = {name: entry for name, entry in stored.items() if name in planned or name not in same}
        faults = [f"{name} is missing" for name in planned if name not in stored]
        faults += [f"{name} is not a tensor of this model" for name in stored if name not in planned]
        tallies: dict[str, _Tally] = {}
        for name, target in planned.items():
            if name in stored:
                info, file = stored[name]
                if fault := _misfit(target, info):
                    faults.append(fault)
                else:
                    tallies[name] = _Tally(info, file)

        def take(target: TensorLayout, place: int, weights: Array) -> None:
            if (tally := tallies.get(target.name)) and target.name not in same:
                tally.take((place - target.offset) // 4, weights.reshape(-1))

        def wants(target: TensorLayout, _: int) -> bool:
            return target.name not in same

        stream(plan, take, threads=threads, progress=progress, stage="Comparing tensors", wants=wants)
    few = 0 < sum(tally.different for tally in tallies.values() if tally.is_remade) <= _FEW_BLOCKS
    for tally in tallies.values():
        faults += tally.faults(few=few)
    return _result(plan, tallies, faults, kept=len(same & planned.keys()))


def _result(plan: ConversionPlan, tallies: Mapping[str, "_Tally"], faults: Sequence[str], *, kept: int) -> Check:
    mapped = {source.name for step in plan.steps for source in step.sources}
    dropped = [name for name in plan.checkpoint.tensors if name not in mapped]
    quantization = plan.checkpoint.quantization
    exact = sum(tally.is_exact for tally in tallies.values())
    distant = [tally for tally in tallies.values() if not tally.is_exact]
    sources = f"all {len(plan.checkpoint.tensors)} source tensors accounted for"
    if dropped:
        sources += f" ({len(dropped)} dropped on purpose)"
    summary = f"{exact} of {len(plan.layout.tensors)} bit-exact"
    if distant:
        worst = max(distant, key=lambda tally: tally.relative_error)
        summary += f", the others off by up to {worst.relative_error:.2%} ({worst.info.name})"
    grade = Grade.EXACT if not distant else Grade.CLOSE
    if quantization:
        summary += (
            f"; the source was {quantization.scheme}, {counted(kept, 'tensor holds', 'tensors hold')} its own blocks"
        )
    if faults:
        grade, summary = Grade.FAILED, f"{faults[0]}; {counted(len(faults), 'fault')}, {summary}"
    details = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else [])]
    details += [*_by_type(tallies), sources]
    if dropped:
        more = f" and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
        details.append(f"dropped on purpose: {', '.join(dropped[:_SHOWN])}{more}")
    figures = {
        "faults": list(faults),
        "dropped_sources": dropped,
        "source_tensors": len(plan.checkpoint.tensors),
        "tensors": [tally.figures() for tally in tallies.values()],
    }
    return Check(NAME, grade, summary, tuple(details), figures)


def _by_type(tallies: Mapping[str, "_Tally"]) -> list[str]:
    """Say for each type how many tensors have it, and how far the worst of them is away."""
    lines = []
    for tensor_type, count in Counter(tally.info.type for tally in tallies.values()).items():
        group = [tally for tally in tallies.values() if tally.info.type is tensor_type]
        exact = sum(tally.is_exact for tally in group)
        line = f"{tensor_type.name}: {counted(count, 'tensor')}, {exact} bit-exact"
        if exact < count:
            worst = max(group, key=lambda tally: tally.relative_error)
            line += f", relative RMS error at most {worst.relative_error:.2%} ({worst.info.name})"
        if bound := BOUNDS.get(tensor_type):
            block = max(group, key=lambda tally: tally.worst)
            line += (
                f", typical {bound.typical:.1%}; worst block off by {block.worst:.2%} of its largest weight "
                f"({block.info.name}), bound {bound.limit(weighted=not block.is_remade):.1%}"
            )
        lines.append(line)
    return lines


def _misfit(target: TensorLayout, info: TensorInfo) -> str | None:
    if (shape := tuple(reversed(info.shape))) != target.shape:
        return f"{info.name} has shape {shape}, expected {target.shape}"
    if info.type not in _PLAIN and info.type not in BOUNDS:
        return f"{info.name} is of type {info.type.name}, which no model's weights should have"
    return None


class _Tally:
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
        if self.info.type in _PLAIN:
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
        if info.type in _PLAIN:
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


@contextlib.contextmanager
def _open_all(parts: Sequence[GgufHeader]) -> Iterator[list[tuple[GgufHeader, int]]]:
    opened: list[tuple[GgufHeader, int]] = []
    try:
        for header in parts:
            file = _open(header.path)
            opened.append((header, file))
        yield opened
    finally:
        for _, file in opened:
            os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise GgufFileError(f"cannot read {path}: {error.strerror}") from error
