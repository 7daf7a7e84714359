"""Words for errors: what a mistyped one is likely to mean, how one is written for a shell, why a file is not read."""

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


def why(error: OSError | ValueError) -> str:
    """Say why a text cannot be read, without Python's words for it."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text in UTF-8"


def quoted(word: str) -> str:
    """Write a word as a shell takes it."""
    return shlex.quote(word)
