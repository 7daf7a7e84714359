"""Every tensor of a GGUF file against the checkpoint, through the conversion's own plan; streamed, in pieces.

What the file should hold is made anew from the checkpoint by the rules of the architecture, as float32. Tensors of F32,
F16 and BF16 must equal it bit for bit once encoded. Quantized ones are made again by libggml and must equal that, or,
when they were quantized in another way (with an importance matrix, say), lie within the bounds of `error_bounds.py`.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ggufkit.conversion.execute import stream
from ggufkit.conversion.plan import ConversionPlan
from ggufkit.counting import counted
from ggufkit.errors import GgufFileError
from ggufkit.evaluation.error_bounds import BOUNDS
from ggufkit.evaluation.kept import find_kept
from ggufkit.evaluation.results import Check, Grade
from ggufkit.evaluation.tensor_tally import PLAIN, Tally
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.progress import Progress

NAME = "tensors"
Array = NDArray[Any]

_SHOWN = 8
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
        tallies: dict[str, Tally] = {}
        for name, target in planned.items():
            if name in stored:
                info, file = stored[name]
                if fault := _misfit(target, info):
                    faults.append(fault)
                else:
                    tallies[name] = Tally(info, file)

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


def _result(plan: ConversionPlan, tallies: Mapping[str, Tally], faults: Sequence[str], *, kept: int) -> Check:
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


def _by_type(tallies: Mapping[str, Tally]) -> list[str]:
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
    if info.type not in PLAIN and info.type not in BOUNDS:
        return f"{info.name} is of type {info.type.name}, which no model's weights should have"
    return None


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
