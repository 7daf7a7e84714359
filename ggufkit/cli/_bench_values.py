"""Values of llama-bench's options: several with commas, by repeating the option, or as a range."""

import re
from collections.abc import Sequence

from ggufkit.errors import UsageError

_RANGE = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")
_MOST = 1000


def words(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(part.strip() for text in texts or () for part in text.split(",") if part.strip())


def numbers(texts: Sequence[str] | None, flag: str, *, least: int = 0) -> tuple[int, ...]:
    """Read numbers, and ranges as llama-bench has them: `1-4`, `256-1024+256`, `1-8*2`.

    Raises:
        UsageError: something else, or a number below `least`.
    """
    found: list[int] = []
    for word in words(texts):
        if match := _RANGE.fullmatch(word):
            found += _range(int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1), f"{flag} {word!r}")
            continue
        try:
            found.append(int(word))
        except ValueError:
            raise UsageError(
                f"{flag} {word!r} is no number", hint=f"several with commas, or a range such as {flag} 1-8*2"
            ) from None
    for number in found:
        if number < least:
            raise UsageError(f"{flag} {number} is too small; {least} at least")
    return tuple(found)


def _range(first: int, last: int, operator: str, step: int, said: str) -> list[int]:
    grows = step > 0 if operator == "+" else step > 1 and first > 0
    if first > last or not grows:
        raise UsageError(f"{said} is no range that grows")
    found = [first]
    while (number := found[-1] + step if operator == "+" else found[-1] * step) <= last:
        found.append(number)
        if len(found) > _MOST:
            raise UsageError(f"{said} has more than {_MOST} values")
    return found


def switches(texts: Sequence[str] | None, flag: str) -> tuple[bool, ...]:
    """Read 0 and 1. Raises UsageError."""
    for word in words(texts):
        if word not in {"0", "1"}:
            raise UsageError(f"{flag} {word!r}: 0 or 1 is expected")
    return tuple(word == "1" for word in words(texts))


def pairs(texts: Sequence[str] | None, flag: str) -> tuple[tuple[int, int], ...]:
    """Read `P,N`, each time the option is given. Raises UsageError."""
    found = []
    for text in texts or ():
        pair = numbers([text], flag)
        if len(pair) != 2:
            raise UsageError(f"{flag} takes two numbers, such as {flag} 512,128")
        found.append((pair[0], pair[1]))
    return tuple(found)
