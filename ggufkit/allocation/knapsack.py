"""Spending a number of bytes on tensors so that the sum of their divergences is smallest: a multiple-choice knapsack.

Two ways, of which the better result counts: along the lower convex hull of each tensor's sizes and divergences, always
taking the step that gains most per byte (which gives every budget at once), and dynamic programming over sizes.
Ties are broken by order, so the same figures give the same result.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_STATES = 1 << 18


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor: the bytes and the divergence (nats) of each type that it may have, in any order."""

    sizes: tuple[int, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Picked:
    """Which option of each item is taken, and what that comes to."""

    options: tuple[int, ...]
    size: int
    cost: float


def smallest(items: Sequence[Item]) -> int:
    """The bytes of the smallest choice."""
    return sum(min(item.sizes) for item in items)


def largest(items: Sequence[Item]) -> int:
    """The bytes of the largest choice."""
    return sum(max(item.sizes) for item in items)


def frontier(items: Sequence[Item]) -> list[Picked]:
    """Walk along the hulls from the smallest choice to the costless one: every step is optimal for its own size."""
    hulls = [_hull(item) for item in items]
    places = [0] * len(items)
    picked = [hull[0] for hull in hulls]
    steps: list[tuple[float, int]] = []
    for number, hull in enumerate(hulls):
        _push(steps, items[number], hull, 0, number)
    found = [_picked(items, picked)]
    while steps:
        _, number = heapq.heappop(steps)
        places[number] += 1
        picked[number] = hulls[number][places[number]]
        _push(steps, items[number], hulls[number], places[number], number)
        found.append(_picked(items, picked))
    return found


def solve(items: Sequence[Item], budget: int, least: int = 0) -> Picked | None:
    """Choose an option of each item: at most `budget` bytes, and `least` if that can be; None where nothing fits."""
    if smallest(items) > budget:
        return None
    greedy = filled(items, [one for one in frontier(items) if one.size <= budget][-1], budget, least)
    exact = _by_sizes(items, budget, least)
    candidates = [greedy, *([filled(items, exact, budget, least)] if exact else [])]
    wide = [one for one in candidates if one.size >= least]
    return min(wide or candidates, key=lambda one: (one.cost, -one.size, one.options))


def _hull(item: Item) -> list[int]:
    """The options on the lower convex hull, the smallest first."""
    order = sorted(range(len(item.sizes)), key=lambda option: (item.sizes[option], item.costs[option], option))
    hull: list[int] = []
    for option in order:
        if hull and item.costs[option] >= item.costs[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(item, hull[-2], hull[-1]) <= _slope(item, hull[-1], option):
            hull.pop()
        if hull and item.sizes[option] == item.sizes[hull[-1]]:
            hull.pop()
        hull.append(option)
    return hull


def _slope(item: Item, first: int, second: int) -> float:
    """What a step gains per byte."""
    return (item.costs[first] - item.costs[second]) / max(1, item.sizes[second] - item.sizes[first])


def _push(steps: list[tuple[float, int]], item: Item, hull: Sequence[int], place: int, number: int) -> None:
    if place + 1 < len(hull):
        heapq.heappush(steps, (-_slope(item, hull[place], hull[place + 1]), number))


def _picked(items: Sequence[Item], options: Sequence[int]) -> Picked:
    chosen = list(zip(items, options, strict=True))
    return Picked(
        tuple(options),
        sum(item.sizes[option] for item, option in chosen),
        math.fsum(item.costs[option] for item, option in chosen),
    )


def filled(items: Sequence[Item], start: Picked, budget: int, least: int = 0) -> Picked:
    """Spend what a choice leaves of `budget`: again and again the change that gains most per byte and still fits.

    A change to a smaller option, where that costs less, must leave `least` bytes.
    """
    options = list(start.options)
    left, spare = budget - start.size, start.size - least
    while True:
        best: tuple[float, int, int] | None = None
        for number, item in enumerate(items):
            now = options[number]
            for option, size in enumerate(item.sizes):
                more, gain = size - item.sizes[now], item.costs[now] - item.costs[option]
                if more > left or (more < 0 and -more > spare) or not gain > 0:  # nor where infinities leave no number
                    continue
                worth = gain / max(1, more)
                if best is None or worth > best[0]:
                    best = (worth, number, option)
        if best is None:
            return _picked(items, options)
        _, number, option = best
        more = items[number].sizes[option] - items[number].sizes[options[number]]
        left, spare = left - more, spare + more
        options[number] = option


def _by_sizes(items: Sequence[Item], budget: int, least: int) -> Picked | None:
    """Dynamic programming over total sizes, in units; sizes are rounded up, so the budget is kept."""
    floor = smallest(items)
    unit = 0
    for item in items:
        for size in item.sizes:
            unit = math.gcd(unit, size - min(item.sizes))
    if not unit:
        return None
    room = min(budget, largest(items)) - floor
    if room // unit >= _MOST_STATES:
        unit = max(room // (_MOST_STATES - 1), unit)
    states = room // unit + 1
    best = np.full(states, np.inf)
    best[0] = 0.0
    taken = np.zeros((len(items), states), np.uint8)
    for number, item in enumerate(items):
        before, best = best, np.full(states, np.inf)
        for option, (size, cost) in enumerate(zip(item.sizes, item.costs, strict=True)):
            step = -(-(size - min(item.sizes)) // unit)
            if step >= states:
                continue
            candidate = before[: states - step] + cost
            better = candidate < best[step:]
            best[step:][better] = candidate[better]
            taken[number, step:][better] = option
    reach = max(0, min(states - 1, -(-(least - floor) // unit)))
    window = best[reach:]
    place = reach + int(np.argmin(window)) if np.isfinite(window).any() else int(np.argmin(best))
    options = [0] * len(items)
    for number in range(len(items) - 1, -1, -1):
        item = items[number]
        options[number] = int(taken[number, place])
        place -= -(-(item.sizes[options[number]] - min(item.sizes)) // unit)
    return _picked(items, options)
