"""What `ggufkit optimize` prints: the estimate, what each file came to, and the curve of all sizes."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.allocation.estimate import Estimate
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.allocation.results import FrontierPoint, Optimization, Optimized
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


def show(
    document: dict[str, Any],
    found: "Optimization",
    report: Path | None,
    *,
    frontier: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print all of it."""
    if as_json:
        _output.print_json(document)
        return
    if quiet:
        for each in found.files:
            print(each.output)
        return
    for each in found.files:
        _show_file(each)
    if frontier:
        _show_frontier(found.frontier)
    if report is not None:
        print(f"{report}: all of it as a page")


def _show_file(each: "Optimized") -> None:
    share = each.bytes / each.budget
    print(
        f"{each.output}: {_output.size(each.bytes)} ({share:.2%} of {each.budget:,} bytes),"
        f" {each.bits_per_weight:.2f} bits per weight, in {duration(each.seconds)}"
    )
    print(f"  tensors: {', '.join(f'{count} {name}' for name, count in each.tensor_types.items())}")
    candidate = each.chosen.candidate
    print(f"  divergence on unseen text: {_figures(each.chosen)}")
    if math.isfinite(candidate.predicted):
        print(f"  foretold: {candidate.predicted_by_probes:.3g} by the probes alone, {_in_the_end(each)}")
    if each.refined:
        accepted = sum(tensor.accepted for tensor in each.refined)
        print(f"  refined: {accepted} of {len(each.refined)} matrices")
        for reason, count in Counter(tensor.reason for tensor in each.refined if tensor.reason).most_common():
            print(f"    {count} not: {reason}")
    preset = each.preset
    if preset is not None and preset is not each.chosen:
        ratio = each.chosen.measured.kld / preset.measured.kld if preset.measured.kld else 1.0
        print(f"  {preset.candidate.name} at {_output.size(preset.candidate.bytes)}: {_figures(preset)}")
        clear = "" if each.difference is None or each.difference.is_clear else " (within what chance explains)"
        print(f"  that is {ratio:.2f} times the divergence of {preset.candidate.name}{clear}")
    elif preset is not None:
        why = "beat" if len(each.verified) > 1 else "of this pool is as small as"
        print(f"  no choice of types {why} {preset.candidate.name}, so it was taken")
    print(f"  recipe: {each.recipe}")


def _in_the_end(each: "Optimized") -> str:
    """Say what was foretold when the other files had been measured."""
    if len(each.verified) < 2:
        return "and no other file was there to scale that by"
    return f"{each.chosen.candidate.predicted:.3g} in proportion to what the other files have measured"


def _figures(it: "Verified") -> str:
    tail = f", 99.9 % below {it.measured.tail:.3g}" if it.measured.tail is not None else ""
    same = f", same top token {it.measured.same_top:.2%}" if it.measured.same_top is not None else ""
    return f"mean {it.measured.kld:.3g}{tail}{same}"


def _show_frontier(points: Sequence["FrontierPoint"]) -> None:
    ours = [point for point in points if point.preset is None and point.predicted > 0]
    presets = [point for point in points if point.preset is not None and point.predicted > 0]
    if not ours:
        return
    print("\nsize and foretold divergence, in proportion to what files have measured: o optimized, + preset")
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


def document(source: Path, found: "Optimization", options: "OptimizeOptions") -> dict[str, Any]:
    """Make the document that `--json` prints and `ggufkit report` reads."""
    import shlex
    import sys

    from ggufkit import __version__
    from ggufkit.allocation.document import document as make
    from ggufkit.llamacpp.pin import pin

    pinned = pin()
    return make(
        str(source),
        found,
        options,
        version=__version__,
        build={"commit": pinned.commit, "llama_cpp_python": pinned.version},
        command=shlex.join(["ggufkit", *sys.argv[1:]]),
    )


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write the page of a result. Raises OutputError."""
    from ggufkit.files import write_atomically
    from ggufkit.reports import render
    from ggufkit.reports.allocation.reading import allocation_of

    write_atomically(path, render([], allocations=[allocation_of(document, path.name)]).encode())
