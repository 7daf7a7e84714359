"""The functions that every Go template has, but for those that write HTML and URLs (text/template/funcs.go)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class CallError(Exception):
    """A function was given what it does not take."""


def is_true(value: Any) -> bool:
    """Tell whether a value counts as true: it is not false, zero, nil or empty."""
    return bool(value)


def printed(value: Any) -> str:
    """Write a value as Go's `fmt.Print` does."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float():
            return _float(value)
        case Mapping():
            return "map[" + " ".join(f"{key}:{printed(value[key])}" for key in sorted(value)) + "]"
        case Sequence():
            return "[" + " ".join(map(printed, value)) + "]"
    return str(value)


def _float(value: float) -> str:
    text = repr(value)
    if "e" not in text and abs(value) < 1e21:
        return text.removesuffix(".0")
    mantissa, _, exponent = f"{value!r}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+03d}" if exponent else text


def _same_kind(one: Any, other: Any) -> None:
    numbers = isinstance(one, int) and isinstance(other, int) and not isinstance(one, bool | str)
    if one is not None and other is not None and type(one) is not type(other) and not numbers:
        raise CallError("incompatible types for comparison")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise CallError("missing argument for comparison")
    for other in others:
        _same_kind(first, other)
        if isinstance(first, Sequence | Mapping) and not isinstance(first, str):
            raise CallError("uncomparable type")
        if first == other:
            return True
    return False


def _compared(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(one: Any, other: Any) -> bool:
        _same_kind(one, other)
        if isinstance(one, bool) or not isinstance(one, int | float | str):
            raise CallError("invalid type for comparison")
        return test(one, other)

    return compare


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if not isinstance(value, Sequence | Mapping):
        raise CallError(f"len of {printed(value)}")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < _length(value):
                raise CallError(f"index out of range: {key}")
            value = value.encode()[key] if isinstance(value, str) else value[key]
        else:
            raise CallError(f"cannot index {printed(value)} by {printed(key)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, Sequence) or len(bounds) > 2:
        raise CallError(f"cannot slice {printed(value)}")
    content: Any = value.encode() if isinstance(value, str) else value
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) == 2 else len(content)
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end <= len(content):
        raise CallError(f"slice bounds out of range: {start}:{end}")
    part = content[start:end]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


def _print(*values: Any) -> str:
    parts: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            parts.append(" ")  # fmt.Sprint: between two that are no strings
        parts.append(printed(value))
    return "".join(parts)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "not": lambda value: not is_true(value),
    "eq": _equal,
    "ne": lambda one, other: not _equal(one, other),
    "lt": _compared(lambda one, other: one < other),
    "le": _compared(lambda one, other: one <= other),
    "gt": _compared(lambda one, other: one > other),
    "ge": _compared(lambda one, other: one >= other),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: " ".join(map(printed, values)) + "\n",
}
LAZY = ("and", "or")  # these look at an argument only when those before it did not decide
