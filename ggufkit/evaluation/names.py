"""Names for files that are shown side by side: short, and never the same for two of them."""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.errors import UsageError


def told_apart(paths: Sequence[Path], names: Sequence[str] | None = None) -> list[str]:
    """Name each path, by default by its file's name; where two would have the same, with as many folders as it takes.

    Only paths of one and the same file keep a common name.
    """
    whole = [path.absolute() for path in paths]
    found = [path.name for path in whole] if names is None else list(names)
    for count in range(2, max((len(path.parts) for path in whole), default=0) + 1):
        meant: dict[str, set[Path]] = {}
        for name, path in zip(found, whole, strict=True):
            meant.setdefault(name, set()).add(path)
        if all(len(files) == 1 for files in meant.values()):
            break
        found = [
            name if len(meant[name]) == 1 else "/".join(path.parts[-count:]).removeprefix("//")
            for name, path in zip(found, whole, strict=True)
        ]
    return found


def check_named_once(paths: Sequence[Path], what: str) -> None:
    """Refuse what would only be measured twice. Raises UsageError."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UsageError(f"the {what} {path} is named twice")
        seen.add(path.resolve())
