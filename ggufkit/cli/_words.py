"""Words of a command line: what a mistyped one is likely to mean, and how one is written for a shell."""

import difflib
import shlex
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], most: int = 3, alike: float = 0.7) -> list[str]:
    """Return the names that a mistyped word is likely to mean, the likeliest first; what it begins counts too.

    `alike` is difflib's ratio of letters in common: 0.7 for names that all begin with dashes.
    """
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    lower = word.lower()
    begun = sorted((name for name in by_lower if len(lower.strip("-")) > 1 and name.startswith(lower)), key=len)
    close = difflib.get_close_matches(lower, by_lower, most, alike)
    return [by_lower[name] for name in list(dict.fromkeys([*begun, *close]))[:most]]


def quoted(word: str) -> str:
    """Write a word as a shell takes it."""
    return shlex.quote(word)
