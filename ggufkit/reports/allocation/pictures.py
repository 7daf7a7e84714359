"""The plots of chosen types: all sizes beside the presets, and what was foretold against what came."""

from collections.abc import Sequence
from html import escape

from ggufkit.reports.allocation.reading import Allocation, Candidate
from ggufkit.reports.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    beside,
    frame,
    line,
    linear,
    logarithmic,
    picture,
    text,
)
from ggufkit.reports.wording import short, size

# Of the presets, those whose names are drawn; the others are told by the table.
_NAMED = ("Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
_BEYOND = 1.06  # times the largest preset: what comes behind it loses nothing that could be seen
WELL_FORETOLD = (0.67, 1.5)  # times what was measured


def frontier(found: Allocation) -> str:
    """Plot size against divergence: the line of chosen types, the presets, and the files that were measured."""
    presets = [point for point in found.frontier if point.preset and point.predicted > 0]
    least = min((point.bytes for point in presets), default=0)
    most = max((point.bytes for point in presets), default=found.model_bytes) * _BEYOND
    curve = [p for p in found.frontier if not p.preset and p.predicted > 0 and least * 0.9 <= p.bytes <= most]
    measured = [(file.output, each) for file in found.files for each in _measured(file.chosen, file.preset)]
    points = [*presets, *curve]
    if len(points) < 2:
        return ""
    heights = [point.predicted for point in points] + [each.measured for _, each in measured if each.measured > 0]
    x_axis = linear([p.bytes for p in points] + [each.bytes for _, each in measured], LEFT, WIDTH - RIGHT - 20)
    y_axis = logarithmic(heights, HEIGHT - BOTTOM, TOP)
    parts = [frame(x_axis, y_axis, "size of the file", "mean KL divergence (nats)", size, short)]
    parts.append(line([(x_axis.place(p.bytes), y_axis.place(p.predicted)) for p in curve], "front"))
    for point in presets:
        said = f"{point.preset}: {size(point.bytes)}, foretold {short(point.predicted)}"
        parts.append(_dot("dim", x_axis.place(point.bytes), y_axis.place(point.predicted), 5, said))
    for output, each in measured:
        said = f"{each.name if each.is_preset else output}: {size(each.bytes)}, measured {short(each.measured)}"
        kind, x, y = "point" if each.is_preset else "best", x_axis.place(each.bytes), y_axis.place(each.measured)
        parts.append(_dot(kind, x, y, 5 if each.is_preset else 7, said))
    named = [point for point in presets if point.preset in _NAMED]
    placed = [(x_axis.place(p.bytes), y_axis.place(p.predicted), str(p.preset)) for p in named]
    parts += [text(x, y, name, "label dim", side) for (_, _, name), (x, y, side) in _labels(placed)]
    words = "; ".join(
        [
            *(f"preset {p.preset} {size(p.bytes)} foretold {short(p.predicted)}" for p in presets),
            *(f"{output} {size(each.bytes)} measured {short(each.measured)}" for output, each in measured),
        ]
    )
    return picture("Size against divergence, chosen types and presets", words, parts)


def _measured(chosen: Candidate, preset: Candidate | None) -> Sequence[Candidate]:
    found = [chosen] if preset is None or preset == chosen else [chosen, preset]
    return [each for each in found if each.measured > 0]


def foretold(found: Allocation) -> str:
    """Plot what was foretold of each candidate by probes alone against what its file measured, both logarithmic."""
    points = [
        (f"{each.name} ({file.target})", each, each.predicted_by_probes)
        for file in found.files
        for each in file.candidates
        if each.predicted_by_probes and each.measured > 0
    ]
    if not points:
        return ""
    values = [value for _, each, by_probes in points for value in (each.measured, by_probes)]
    x_axis, y_axis = logarithmic(values, LEFT, WIDTH - RIGHT - 20), logarithmic(values, HEIGHT - BOTTOM, TOP)
    parts = [frame(x_axis, y_axis, "foretold by probes (nats)", "measured (nats)", short, short)]
    parts.append(_diagonal(x_axis, y_axis, 1.0, "front"))
    parts += [_diagonal(x_axis, y_axis, 1 / ratio, "dashed thin series-7") for ratio in WELL_FORETOLD]
    for name, each, by_probes in points:
        said = f"{name}: foretold {short(by_probes)}, measured {short(each.measured)}"
        kind = "dim" if each.is_preset else "point"
        parts.append(_dot(kind, x_axis.place(by_probes), y_axis.place(each.measured), 5, said))
    words = "; ".join(f"{name} {short(by_probes)}, {short(each.measured)}" for name, each, by_probes in points)
    return picture("Foretold and measured divergence of all candidates", words, parts)


def both_ways(found: Allocation) -> str:
    """Plot what a backward pass foretold of groups of tensors against what probes have measured of them."""
    points = [each for each in found.compared if each[1] > 0 and each[2] > 0]
    if not points:
        return ""
    values = [value for each in points for value in each[1:]]
    x_axis, y_axis = logarithmic(values, LEFT, WIDTH - RIGHT - 20), logarithmic(values, HEIGHT - BOTTOM, TOP)
    parts = [frame(x_axis, y_axis, "by the backward pass (nats)", "by a probe (nats)", short, short)]
    parts.append(_diagonal(x_axis, y_axis, 1.0, "front"))
    for name, pass_, probe in points:
        said = f"{name}: {short(pass_)}, probed {short(probe)}"
        parts.append(_dot("point", x_axis.place(pass_), y_axis.place(probe), 5, said))
    words = "; ".join(f"{name} {short(pass_)}, {short(probe)}" for name, pass_, probe in points)
    return picture("Backward pass and probes", words, parts)


def _dot(kind: str, x: float, y: float, radius: int, said: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(said)}</title></circle>'


def _diagonal(x_axis: Axis, y_axis: Axis, ratio: float, kind: str) -> str:
    """Draw where y is `ratio` times x, as far as it lies within both axes."""
    first, last = max(x_axis.low, y_axis.low / ratio), min(x_axis.high, y_axis.high / ratio)
    return line([(x_axis.place(x), y_axis.place(ratio * x)) for x in (first, last)], kind) if first < last else ""


def _labels(
    points: Sequence[tuple[float, float, str]],
) -> list[tuple[tuple[float, float, str], tuple[float, float, str]]]:
    return list(zip(points, beside(points, WIDTH), strict=True))
