"""Regular expressions of strangers for the names of modules: those that could take for ever are refused.

Python's `re` tries every way in which repetitions can share a text. Patterns for names have a few of them, side by
side; what is counted here is how many ways there are at most, before any is tried.
"""

import functools
import math
import re

from ggufkit.errors import CheckpointError

_MOST_WAYS = 5_000_000
_MOST_REPEATED = 1000
_LONGEST = 10_000
_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")


def matches(pattern: str, name: str, *, where: str) -> bool:
    """Tell whether a pattern matches at the beginning of a name, as `re.match` does; `where` names the pattern.

    Raises:
        CheckpointError: it is no regular expression, or one that could take for ever.
    """
    try:
        compiled, shape = _compiled(pattern)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise CheckpointError(f"{where} {pattern!r:.200} is no pattern for names: {error}") from None
    if shape.factor * len(name) ** shape.repeats > _MOST_WAYS * math.factorial(min(shape.repeats, 20)):
        raise CheckpointError(f"{where} {pattern!r:.200} would take very long on a name of {len(name)} characters")
    return compiled.match(name) is not None


class _Shape:
    """How a pattern can be matched: repetitions without end, and the ways that choices multiply."""

    def __init__(self) -> None:
        self.repeats, self.factor = 0, 1


@functools.lru_cache(256)
def _compiled(pattern: str) -> tuple[re.Pattern[str], _Shape]:
    if len(pattern) > _LONGEST:
        raise ValueError("it is very long")
    return re.compile(pattern), _shape(pattern)


def _shape(pattern: str) -> _Shape:
    """Count repetitions and choices. Raises ValueError for repetitions within repetitions, and for back references."""
    shape = _Shape()
    groups: list[tuple[int, bool]] = [
        (1, False)
    ]  # of each open group: its alternatives, and whether anything in it repeats or chooses
    place, closed, inner = 0, False, False
    while place < len(pattern):
        mark, after_group, closed = pattern[place], closed, False
        step = 1
        if mark == "\\":
            if pattern[place + 1 : place + 2].isdigit() and pattern[place + 1] != "0":
                raise ValueError("it refers back to a group")
            step = 2
        elif mark == "[":
            step = _class_length(pattern, place)
        elif mark == "(":
            groups.append((1, False))
            step = 1 if pattern[place + 1 : place + 2] != "?" else 3
            if pattern[place : place + 4] == "(?P=" or pattern[place : place + 3] == "(?(":
                raise ValueError("it refers back to a group")
        elif mark == ")":
            alternatives, varies = groups.pop() if len(groups) > 1 else groups[0]
            shape.factor *= alternatives
            inner, closed = varies or alternatives > 1, True
            groups[-1] = (groups[-1][0], groups[-1][1] or inner)
        elif mark == "|":
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
        elif mark in "*+?{":
            counted = _COUNTED.match(pattern, place) if mark == "{" else None
            if mark != "{" or counted:
                if after_group and inner and mark != "?":
                    raise ValueError("it repeats what repeats or chooses in itself")
                step = counted.end() - place if counted else 1
                _count(shape, mark, counted)
                groups[-1] = (groups[-1][0], True)
                step += pattern[place + step : place + step + 1] in ("?", "+")  # as few, or as many, as can be
        place += step
    shape.factor *= groups[0][0]
    return shape


def _count(shape: _Shape, mark: str, counted: re.Match[str] | None) -> None:
    if mark == "?":
        shape.factor *= 2
    elif counted is None or (counted[2] and not counted[3]):
        shape.repeats += 1
    else:
        least, most = int(counted[1] or 0), int(counted[3] or counted[1] or 0)
        if most > _MOST_REPEATED:
            raise ValueError("it repeats very often")
        shape.factor *= max(1, most - least + 1)


def _class_length(pattern: str, place: int) -> int:
    """Measure `[…]`, in which nothing repeats; a bracket right at its beginning is one of its characters."""
    end = place + 1 + (pattern[place + 1 : place + 2] == "^")
    end += pattern[end : end + 1] == "]"
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - place
