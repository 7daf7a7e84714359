"""What plots are made of, as SVG text: axes with round numbers, frames, lines, labels that do not cover each other."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 600, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 30, 56
_LETTER, _LINE = 10.5, 19.0  # of a label on a phone, where letters are largest beside the plot


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, drawn from `start` to `end`; `ticks` are those with a line and a number."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where on the picture a value lies; what is beyond an end lies there."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.logarithmic else value
        return self.start + (min(max(at, low), high) - low) / (high - low) * (self.end - self.start)


def linear(values: Sequence[float], start: float, end: float, *, from_zero: bool = False) -> Axis:
    """Make an axis whose ends and ticks are round numbers around the values."""
    low, high = (0.0 if from_zero else min(values)), max(values)
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(times for times in (1, 2, 5, 10) if span / (step * times) <= 5)
    first, last = math.floor(low / step * (1 + 1e-9)), math.ceil(high / step * (1 - 1e-9))
    ticks = [step * number for number in range(first, max(last, first + 1) + 1)]
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    """Make an axis of whole powers of ten around the values, which are positive; those below 1e-300 lie at its end."""
    first = max(-300, math.floor(math.log10(min(values))))
    last = max(first + 1, math.ceil(math.log10(max(values) * 1.0001)))
    every = max(1, (last - first) // 6)
    return Axis(
        10.0**first, 10.0**last, start, end, [10.0**it for it in range(first, last + 1, every)], logarithmic=True
    )


def frame(
    x_axis: Axis,
    y_axis: Axis,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """Draw the lines of both axes' ticks, their numbers, and what the axes are."""
    parts = []
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(text(x, HEIGHT - BOTTOM + 20, x_text(tick), "tick", "middle"))
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{x_axis.start}" x2="{x_axis.end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(x_axis.start - 8, y + 4, y_text(tick), "tick", "end"))
    parts.append(text((x_axis.start + x_axis.end) / 2, HEIGHT - 10, x_label, "axis", "middle"))
    parts.append(text(0, 16, y_label, "axis", "start"))
    return "".join(parts)


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """Write words; `anchor` says which end of them is at x."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Join points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {kind}" points="{path}"/>' if len(points) > 1 else ""


def apart(places: Sequence[float], low: float, high: float, least: float = _LINE) -> list[float]:
    """Move labels so that none covers another, in their order; between `low` and `high` if there is room."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    room = high
    for number in reversed(order):
        moved[number] = max(low, min(moved[number], room))
        room = moved[number] - least
    return moved


def beside(points: Sequence[tuple[float, float, str]], width: float) -> list[tuple[float, float, str]]:
    """Find a place for the name of each point (x, y, name): where the text starts, and its anchor.

    The first of eight places around the point that covers neither a point nor a name; else the one that covers least.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    found = []
    for x, y, name in points:
        long = _LETTER * len(name)
        choices = [
            (x + 10, y - 8, "start"), (x + 10, y + 18, "start"), (x - 10, y + 18, "end"), (x - 10, y - 8, "end"),
            (x + 12, y + 5, "start"), (x - 12, y + 5, "end"), (x, y - 14, "middle"), (x, y + 26, "middle"),
        ]  # fmt: skip
        best = min(choices, key=lambda choice: _covered(_box(choice, long), taken, width))
        taken.append(_box(best, long))
        found.append(best)
    return found


_Box = tuple[float, float, float, float]


def _box(choice: tuple[float, float, str], long: float) -> _Box:
    x, y, anchor = choice
    left = x - {"start": 0.0, "end": long, "middle": long / 2}[anchor]
    return left, y - _LINE + 5, left + long, y + 5


def _covered(box: _Box, taken: Sequence[_Box], width: float) -> float:
    """How much of what is there already a label would cover; much, where it would leave the picture."""
    left, top, right, bottom = box
    beyond = max(0.0, -left) + max(0.0, right - width) + max(0.0, TOP - 12 - top) + max(0.0, bottom - HEIGHT + BOTTOM)
    area = sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
        for other in taken
    )
    return area + 1000 * beyond


def picture(title: str, words: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    """Put a drawing together; `words` say to those who cannot see it what it shows."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(f"{title}. {words}")}">'
        f"{''.join(parts)}</svg>"
    )
