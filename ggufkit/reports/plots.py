"""Plots as SVG text; their colours are the style's, and words say the same for those who cannot see them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ggufkit.reports.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    apart,
    beside,
    frame,
    line,
    linear,
    logarithmic,
    picture,
    text,
)

_COLOURS = 8  # classes series-0 to series-7 of the style
_NAMES = 190  # room for names beside bars
_BAR = 32
_NINES = ((0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"))


@dataclass(frozen=True, slots=True)
class Point:
    """A point with a name; `error` is half of the length of its bar, in units of y; `kind` is dim, best or point."""

    name: str
    x: float
    y: float
    error: float = 0.0
    kind: str = "point"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: what it is made of, in the order of the legend, or a single value with the extremes of its repeats."""

    name: str
    parts: Sequence[float]
    low: float | None = None
    high: float | None = None


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    limit: float | None = None,
) -> str:
    """Plot points, y on a logarithmic axis; those that are not dim are joined, from left to right.

    `limit` is drawn across, at that y.
    """
    shown = [point for point in points if point.y > 0]
    if not shown:
        return ""
    limit = limit if limit and limit > 0 else None
    heights = [point.y for point in shown] + ([limit] if limit else [])
    x_axis = linear([point.x for point in shown], LEFT, WIDTH - RIGHT - 20)
    y_axis = logarithmic(heights, HEIGHT - BOTTOM, TOP)
    parts = [frame(x_axis, y_axis, x_label, y_label, x_text, y_text)]
    if limit:
        y = y_axis.place(limit)
        parts.append(f'<line class="limit" x1="{x_axis.start}" x2="{x_axis.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(x_axis.end, y - 5, f"limit {y_text(limit)}", "label limit", "end"))
    front = sorted((point for point in shown if point.kind != "dim"), key=lambda point: point.x)
    parts.append(line([(x_axis.place(p.x), y_axis.place(p.y)) for p in front], "front"))
    placed = [(x_axis.place(p.x), y_axis.place(p.y), p.name) for p in shown]
    for point, (x, y, _), label in zip(shown, placed, beside(placed, WIDTH), strict=True):
        if point.error:
            low, high = y_axis.place(max(point.y - point.error, y_axis.low)), y_axis.place(point.y + point.error)
            parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        said = f"{point.name}: {x_text(point.x)}, {y_text(point.y)}"
        radius = 7 if point.kind == "best" else 5
        parts.append(
            f'<circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>{escape(said)}</title></circle>"
        )
        parts.append(text(label[0], label[1], point.name, f"label {point.kind}", label[2]))
    words = "; ".join(f"{p.name} {x_text(p.x)} {y_text(p.y)}" for p in shown)
    return picture(title, words, parts)


def tails(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_text: Callable[[float], str],
    floor: float,
) -> str:
    """Plot values by percentile, up to 99.9: x grows with the nines, so that the rare and bad tokens can be seen.

    y is logarithmic and ends at `floor`; the end of each line bears its name.
    """
    last = _NINES[-1][0]
    shown = [(name, [(x, max(y, floor)) for x, y in curve if x <= last]) for name, curve in series if curve]
    if not shown:
        return ""
    x_axis = Axis(0.0, _nines(last), LEFT, WIDTH - 130, [_nines(percent) for percent, _ in _NINES])
    y_axis = logarithmic([y for _, curve in shown for _, y in curve], HEIGHT - BOTTOM, TOP)
    names = {_nines(percent): name for percent, name in _NINES}
    parts = [frame(x_axis, y_axis, x_label, y_label, lambda value: names[value], y_text)]
    ends = apart([y_axis.place(curve[-1][1]) for _, curve in shown], TOP, HEIGHT - BOTTOM)
    for number, ((name, curve), end) in enumerate(zip(shown, ends, strict=True)):
        kind = f"series-{number % _COLOURS}"
        dashes = " dashed" if number % 2 else ""
        parts.append(line([(x_axis.place(_nines(x)), y_axis.place(y)) for x, y in curve], kind + dashes))
        leads = [(x_axis.end, y_axis.place(curve[-1][1])), (x_axis.end + 12, end)]
        parts.append(line(leads, f"{kind} thin"))
        parts.append(text(x_axis.end + 15, end + 5, name, f"label {kind}"))
    words = "; ".join(
        f"{name}: median {y_text(_at(curve, 50))}, 99 % {y_text(_at(curve, 99))}" for name, curve in shown
    )
    return picture(title, words, parts)


def bars(
    rows: Sequence[Bar],
    *,
    title: str,
    value_text: Callable[[float], str],
    parts_of: Sequence[str] = (),
) -> str:
    """Plot one horizontal bar for each name, stacked of parts (which `parts_of` names), or with its error bar."""
    most = max((max(sum(row.parts), row.high or 0.0) for row in rows), default=0.0)
    if most <= 0:
        return ""
    scale, top = (WIDTH - _NAMES - 110) / most, 30 if parts_of else 4
    drawn = [_legend(parts_of)] if parts_of else []
    for number, row in enumerate(rows):
        y, x = top + _BAR * number, float(_NAMES)
        drawn.append(text(x - 8, y + 17, row.name, "label", "end"))
        for place, part in enumerate(row.parts):
            label = f"{parts_of[place]}: {value_text(part)}" if parts_of else value_text(part)
            drawn.append(
                f'<rect class="part-{place}" x="{x:.1f}" y="{y}" width="{scale * part:.1f}" height="22">'
                f"<title>{escape(label)}</title></rect>"
            )
            x += scale * part
        end = x
        if row.low is not None and row.high is not None:
            drawn.append(_error_bar(_NAMES + scale * row.low, _NAMES + scale * row.high, y + 11))
            end = max(x, _NAMES + scale * row.high)
        drawn.append(text(end + 8, y + 17, value_text(sum(row.parts)), "label"))
    words = "; ".join(_said(row, value_text, parts_of) for row in rows)
    return picture(title, words, drawn, top + _BAR * len(rows))


def _legend(names: Sequence[str]) -> str:
    parts, x = [], 4.0
    for number, name in enumerate(names):
        parts.append(f'<rect class="part-{number}" x="{x:.0f}" y="3" width="14" height="14"/>')
        parts.append(text(x + 19, 16, name, "tick"))
        x += 33 + 10.5 * len(name)
    return "".join(parts)


def _error_bar(low: float, high: float, y: float) -> str:
    ends = "".join(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6}" y2="{y + 6}"/>' for x in (low, high))
    return f'<line class="bar" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>{ends}'


def _said(row: Bar, value_text: Callable[[float], str], parts_of: Sequence[str]) -> str:
    if parts_of:
        parts = ", ".join(f"{name} {value_text(part)}" for name, part in zip(parts_of, row.parts, strict=True))
        return f"{row.name} {value_text(sum(row.parts))}: {parts}"
    spread = "" if row.low is None or row.high is None else f", {value_text(row.low)} to {value_text(row.high)}"
    return f"{row.name} {value_text(sum(row.parts))}{spread}"


def _nines(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _at(curve: Sequence[tuple[float, float]], percent: float) -> float:
    return next((y for x, y in curve if x >= percent), curve[-1][1])
