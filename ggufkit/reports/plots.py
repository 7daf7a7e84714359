"""Plots as SVG text: axes with round numbers, colours that the page's styles choose, words for those who cannot see."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 34, 48
_COLOURS = 8  # classes series-0 to series-7 of the style


@dataclass(frozen=True, slots=True)
class Point:
    """A point with a name; `error` is half of the length of its bar, in units of y; `dim` greys it."""

    name: str
    x: float
    y: float
    error: float = 0.0
    dim: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def place(self, value: float) -> float:
        """Where on the picture a value lies."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.logarithmic else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [10.0**power for power in range(first, last + 1)]
        else:
            span = self.high - self.low
            step = 10 ** math.floor(math.log10(span / 4)) if span > 0 else 1.0
            step *= next(times for times in (1, 2, 5, 10) if span / (step * times) <= 6)
            found = [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """Plot points, y on a logarithmic axis; those that are not dim are joined, from left to right."""
    shown = [point for point in points if point.y > 0]
    if not shown:
        return ""
    x_axis = _linear([point.x for point in shown], _LEFT, _WIDTH - _RIGHT, from_zero=True)
    y_axis = _logarithmic([point.y for point in shown], _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(x_axis, y_axis, x_label, y_label, x_text, y_text)]
    front = sorted((point for point in shown if not point.dim), key=lambda point: point.x)
    parts.append(_line([(x_axis.place(p.x), y_axis.place(p.y)) for p in front], "front"))
    for point in shown:
        x, y = x_axis.place(point.x), y_axis.place(point.y)
        kind = "dim" if point.dim else "point"
        if point.error:
            low, high = y_axis.place(max(point.y - point.error, y_axis.low)), y_axis.place(point.y + point.error)
            parts.append(f'<line class="bar {kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        label = f"{point.name}: {x_text(point.x)}, {y_text(point.y)}"
        anchor, shift = ("end", -9) if x > _WIDTH - 160 else ("start", 9)
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(label)}</title></circle>'
            f'<text class="label {kind}" x="{x + shift:.1f}" y="{y - 12:.1f}" text-anchor="{anchor}">'
            f"{escape(point.name)}</text>"
        )
    words = "; ".join(f"{p.name} {x_text(p.x)} {y_text(p.y)}" for p in shown)
    return _picture(title, words, parts)


def curves(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    floor: float,
) -> str:
    """Plot lines, y on a logarithmic axis that ends at `floor`; the last point of each bears its name."""
    shown = [(name, [(x, max(y, floor)) for x, y in line]) for name, line in series if line]
    if not shown:
        return ""
    x_axis = _linear([x for _, line in shown for x, _ in line], _LEFT, _WIDTH - 120, from_zero=True)
    y_axis = _logarithmic([y for _, line in shown for _, y in line], _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(x_axis, y_axis, x_label, y_label, x_text, y_text)]
    ends = _apart([y_axis.place(line[-1][1]) for _, line in shown])
    for number, ((name, line), end) in enumerate(zip(shown, ends, strict=True)):
        kind = f"series-{number % _COLOURS}"
        parts.append(_line([(x_axis.place(x), y_axis.place(y)) for x, y in line], kind))
        parts.append(f'<text class="label {kind}" x="{x_axis.end + 8:.1f}" y="{end + 4:.1f}">{escape(name)}</text>')
    words = "; ".join(f"{name}: median {y_text(line[len(line) // 2][1])}" for name, line in shown)
    return _picture(title, words, parts)


def bars(rows: Sequence[tuple[str, float]], *, title: str, text: Callable[[float], str]) -> str:
    """Plot one horizontal bar for each name."""
    if not rows or max(value for _, value in rows) <= 0:
        return ""
    most, height = max(value for _, value in rows), 30 * len(rows) + 8
    parts = []
    for number, (name, value) in enumerate(rows):
        y, width = 30 * number + 6, (_WIDTH - 330) * value / most
        parts.append(
            f'<text class="label" x="210" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="series-0 fill" x="220" y="{y}" width="{width:.1f}" height="20"/>'
            f'<text class="label" x="{228 + width:.1f}" y="{y + 15}">{escape(text(value))}</text>'
        )
    return _picture(title, "; ".join(f"{name} {text(value)}" for name, value in rows), parts, height)


def _linear(values: Sequence[float], start: float, end: float, *, from_zero: bool) -> _Axis:
    high = max(values) * 1.05 or 1.0
    low = 0.0 if from_zero else min(values)
    return _Axis(low, high, start, end, logarithmic=False)


def _logarithmic(values: Sequence[float], start: float, end: float) -> _Axis:
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values) * 1.0001))
    return _Axis(low, high if high > low else low * 10, start, end, logarithmic=True)


def _frame(
    x_axis: _Axis,
    y_axis: _Axis,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    parts = []
    for tick in x_axis.ticks():
        x = x_axis.place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(x_text(tick))}</text>"
        )
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{x_axis.end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(y_text(tick))}</text>'
        )
    parts.append(
        f'<text class="axis" x="{(_LEFT + x_axis.end) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="axis" x="0" y="16">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {kind}" points="{path}"/>' if len(points) > 1 else ""


def _apart(places: Sequence[float], least: float = 15.0) -> list[float]:
    """Move labels so that none covers another, in the order that they had."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    return moved


def _picture(title: str, words: str, parts: Sequence[str], height: int = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(f"{title}. {words}")}">'
        f"{''.join(parts)}</svg>"
    )
