"""How large a template's values, and the process that renders it, may become."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2.exceptions import TemplateError

LARGEST_VALUE = 16 << 20  # characters; elements count as ELEMENT of them, as often as they would be printed
ELEMENT = 32
LARGEST_NUMBER = 4096  # bits
MOST_MEMORY = 512 << 20  # bytes on top of what the process has


class TooMuchError(TemplateError):
    """The template wants more time or memory than any honest one needs."""


@contextlib.contextmanager
def limited_memory(size: int = MOST_MEMORY) -> Iterator[None]:
    """Let the process grow by `size` bytes at most, where the system can (Linux); beyond it there is a MemoryError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a Path would do no good here
        limit = int(file.read().split()[0]) * resource.getpagesize() + size
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def weighed(value: Any) -> Any:
    """Return a value that printing or comparing can cope with. Raises TooMuchError for others.

    A list that holds one list twice, which holds one list twice …, is small in memory and endless to print: elements
    count as often as they would be printed.
    """
    refuse_size(weigh(value, {}))
    return value


def weigh(value: Any, known: dict[int, int]) -> int:
    """Return how large a value is when it is printed; `known` remembers containers. Raises TooMuchError."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int) and value.bit_length() > LARGEST_NUMBER:
        raise TooMuchError(f"it computes a number of more than {LARGEST_NUMBER} bits")
    if isinstance(value, Mapping):
        parts: Iterable[Any] = (part for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple | set | frozenset | type({}.keys()) | type({}.values()) | type({}.items())):
        parts = value
    else:
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # for lists that hold themselves
        total = ELEMENT * len(value)
        refuse_size(total)
        for part in parts:
            total += weigh(part, known)
            if total > LARGEST_VALUE:
                break
        known[id(value)] = 1 + total
    return known[id(value)]


def refuse_size(size: int) -> None:
    """Refuse what is too large. Raises TooMuchError."""
    if size > LARGEST_VALUE:
        raise TooMuchError(f"it makes a value of more than {LARGEST_VALUE >> 20} million characters or elements")


def is_small(number: Any) -> bool:
    """Tell whether a number may be raised to a power."""
    return isinstance(number, int | float) and abs(number) < 2**64


def repeated(left: Any, right: Any) -> int:
    """Return the size of a product before it is computed."""
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(count, int):
            return max(1, weigh(value, {})) * max(0, count)
    return 0
