"""What `ggufkit optimize` prints: the estimate, what each file came to, and the curve of all sizes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.allocation.estimate import Estimate
    from ggufkit.allocation.optimize import Optimization
    from ggufkit.allocation.results import FrontierPoint, Optimized
    from ggufkit.allocation.verification import Verified

_WIDTH, _HEIGHT = 72, 18
_ROWS = 16  # of the table of the frontier


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def estimate_lines(found: "Estimate") -> Iterator[str]:
    """Say what it will take."""
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in found.stages.items() if seconds >= 0.5)
    yield f"this will take about {duration(found.seconds)} ({parts}), and {_output.size(found.disk_bytes)} of disk"


def estimate_document(found: "Estimate") -> dict[str, Any]:
    """Give the estimate as a document."""
    return {**dataclasses.asdict(found), "seconds": found.seconds}


def show(source: Path, found: "Optimization", *, frontier: bool, as_json: bool, quiet: bool) -> None:
    """Print all of it."""
    if as_json:
        _output.print_json(_document(source, found))
        return
    if quiet:
        for each in found.files:
            print(each.output)
        return
    for each in found.files:
        _show_file(each)
    if frontier:
        _show_frontier(found.frontier)


def _show_file(each: "Optimized") -> None:
    share = each.bytes / each.budget
    print(
        f"{each.output}: {_output.size(each.bytes)} ({share:.2%} of {each.budget:,} bytes),"
        f" {each.bits_per_weight:.2f} bits per weight, in {duration(each.seconds)}"
    )
    print(f"  tensors: {', '.join(f'{count} {name}' for name, count in each.tensor_types.items())}")
    print(f"  divergence on unseen text: {_figures(each.chosen)}, foretold {each.chosen.candidate.predicted:.3g}")
    if each.refined:
        accepted = sum(tensor.accepted for tensor in each.refined)
        print(f"  refined: {accepted} of {len(each.refined)} matrices")
    preset = each.preset
    if preset is not None and preset is not each.chosen:
        ratio = each.chosen.measured.kld / preset.measured.kld if preset.measured.kld else 1.0
        print(f"  {preset.candidate.name} at {_output.size(preset.candidate.bytes)}: {_figures(preset)}")
        clear = "" if each.difference is None or each.difference.is_clear else " (within what chance explains)"
        print(f"  that is {ratio:.2f} times the divergence of {preset.candidate.name}{clear}")
    elif preset is not None:
        print(f"  no choice of types beat {preset.candidate.name}, so it was taken")
    print(f"  recipe: {each.recipe}")


def _figures(it: "Verified") -> str:
    tail = f", 99.9 % below {it.measured.tail:.3g}" if it.measured.tail is not None else ""
    same = f", same top token {it.measured.same_top:.2%}" if it.measured.same_top is not None else ""
    return f"mean {it.measured.kld:.3g}{tail}{same}"


def _show_frontier(points: Sequence["FrontierPoint"]) -> None:
    ours = [point for point in points if point.preset is None and point.predicted > 0]
    presets = [point for point in points if point.preset is not None and point.predicted > 0]
    if not ours:
        return
    print("\nsize and foretold divergence: o optimized, + preset")
    print(plot(ours, presets))
    print(f"{'size':>12} {'bits':>6} {'divergence':>11}")
    step = max(1, len(ours) // _ROWS)
    rows = sorted([*ours[::step], *presets], key=lambda point: point.bytes)
    for point in rows:
        name = f"  {point.preset}" if point.preset else ""
        print(f"{_output.size(point.bytes):>12} {point.bits_per_weight:>6.2f} {point.predicted:>11.3g}{name}")


def plot(ours: Sequence["FrontierPoint"], presets: Sequence["FrontierPoint"]) -> str:
    """Draw sizes from left to right and the logarithm of divergences upwards."""
    points = [*ours, *presets]
    low, high = (limit(point.bytes for point in points) for limit in (min, max))
    least, most = (math.log10(limit(point.predicted for point in points)) for limit in (min, max))
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark, some in (("o", ours), ("+", presets)):
        for point in some:
            column = round((point.bytes - low) / max(1, high - low) * (_WIDTH - 1))
            row = round((math.log10(point.predicted) - least) / max(1e-9, most - least) * (_HEIGHT - 1))
            grid[_HEIGHT - 1 - row][column] = mark
    lines = []
    for number, cells in enumerate(grid):
        shown = most - (most - least) * number / (_HEIGHT - 1)
        label = f"{10**shown:9.2g}" if number % 4 == 0 or number == _HEIGHT - 1 else " " * 9
        lines.append(f"{label} |{''.join(cells).rstrip()}")
    lines.append(f"{'':9} +{'-' * _WIDTH}")
    lines.append(f"{'':11}{_output.size(low):<{_WIDTH // 2}}{_output.size(high):>{_WIDTH // 2}}")
    return "\n".join(lines)


def _document(source: Path, found: "Optimization") -> dict[str, Any]:
    return {
        "dry_run": False,
        "source": str(source),
        "seconds": found.seconds,
        "estimate": estimate_document(found.estimate),
        "results": [_result_document(each) for each in found.files],
        "frontier": [dataclasses.asdict(point) for point in found.frontier],
    }


def _result_document(each: "Optimized") -> dict[str, Any]:
    return {
        "target": each.target,
        "budget": each.budget,
        "output": str(each.output),
        "recipe": str(each.recipe),
        "bytes": each.bytes,
        "share_of_budget": each.bytes / each.budget,
        "bits_per_weight": each.bits_per_weight,
        "tensor_types": dict(each.tensor_types),
        "tensors": {name: kind.name for name, kind in each.types.items()},
        "chosen": each.chosen.candidate.name,
        "candidates": [
            {
                "name": it.candidate.name,
                "is_preset": it.candidate.is_preset,
                "bytes": it.candidate.bytes,
                "predicted_kld": it.candidate.predicted,
                "mean_kld": it.measured.kld,
                "kld_999": it.measured.tail,
                "same_top": it.measured.same_top,
            }
            for it in each.verified
        ],
        "refined": [dataclasses.asdict(tensor) for tensor in each.refined],
        "difference": dataclasses.asdict(each.difference) if each.difference else None,
        "seconds": each.seconds,
    }
