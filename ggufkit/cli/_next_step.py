"""What to try next, for an error that does not say so itself: names like the one that is missing, or where help is.

Imported only when there is such an error.
"""

import difflib
import errno
import re
import sys
from pathlib import Path

from ggufkit.cli._words import nearest, quoted
from ggufkit.errors import OutputError, UsageError

_MISSING = re.compile(r"(?:no such [\w ]+: |cannot (?:read|open)[\w ]*: |there is no file )(?P<path>.+)", re.DOTALL)
_ENTRIES_LOOKED_AT = 2000


def next_step(error: BaseException) -> str | None:
    """Return a hint; None where there is nothing to be said that would help."""
    if isinstance(error, OutputError):
        return "name another output with -o" if any(word.startswith(("-o", "--output")) for word in sys.argv) else None
    cause = _cause(error)
    if cause is not None and cause.filename is not None:
        return _of_path(Path(_text(cause.filename)), cause.errno or 0)
    said = _MISSING.match(str(error))
    if said is not None and not _exists(Path(said["path"])):
        return _of_path(Path(said["path"]), errno.ENOENT)
    if isinstance(error.__cause__ or error.__context__, UnicodeDecodeError):
        return "give a text in UTF-8"
    if isinstance(error, UsageError):
        return f"{_called()} --help lists all options"
    return None


def similar_paths(path: Path) -> list[str]:
    """Return what stands in the folder of a missing path under a similar name, the likeliest first."""
    try:
        names = [each.name for each, _ in zip(path.parent.iterdir(), range(_ENTRIES_LOOKED_AT), strict=False)]
    except OSError:
        return []
    near = [name for name in nearest(path.name, names, alike=0.75) if _alike(path.name, name)]
    return [quoted(str(path.parent / name)) for name in near]


def _alike(meant: str, name: str) -> bool:
    """Tell whether names have more in common than their endings."""
    stems = [Path(each.lower()).stem for each in (meant, name)]
    return stems[1].startswith(stems[0]) or difflib.SequenceMatcher(None, stems[0], stems[1]).ratio() >= 0.6


def of_missing(path: Path) -> str | None:
    """Say what could be meant by a path that is not there: a similar name, or how far the path goes."""
    if near := similar_paths(path):
        return f"did you mean {' or '.join(near)}?"
    if not _exists(path.parent):
        return f"there is no folder {path.parent} either"
    return None


def _of_path(path: Path, number: int) -> str | None:
    if number == errno.ENOENT:
        place = "" if path.parent == Path() else f" {quoted(str(path.parent))}"
        return of_missing(path) or f"ls{place} shows what is there"
    if number in (errno.EACCES, errno.EPERM):
        return f"ls -ld {quoted(str(path))} shows who may use it"
    if number == errno.EISDIR:
        return "it is a folder: name a file in it"
    if number == errno.ENOTDIR:
        file = next((each for each in (path, *path.parents) if each.is_file()), path)
        return f"{file} is a file, and a folder is needed"
    return None


def _cause(error: BaseException) -> OSError | None:
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    return cause if isinstance(cause, OSError) else None


def _text(name: object) -> str:
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # who knows


def _called() -> str:
    """Return the command that was called, as `ggufkit export ollama`."""
    from ggufkit.cli._app import Commands
    from ggufkit.cli.export import Destinations

    words, path = sys.argv[1:], "ggufkit"
    for table in (Commands.table, Destinations.table):
        names = {entry.name for entries in table.values() for entry in entries}
        if words and words[0] in names:
            path = f"{path} {words.pop(0)}"
        if not path.endswith(" export"):
            break
    return path
