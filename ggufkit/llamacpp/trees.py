"""Whole folders, put in place so that nobody ever sees half of one."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ggufkit.errors import OutputError


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it takes the place of `target`.

    Raises:
        OutputError: no space or no permission.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}{_MARK}") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            if target.is_symlink() or target.exists():
                target.rename(old)
            new.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        raise OutputError(f"cannot write {target}: {error.strerror}", hint=_HINT) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left in `folder`. Only for who knows that nobody else is writing there."""
    for path in folder.glob(f".*{_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Fill `target` with the content of `source` by hard links; copy where links are not possible."""
    for folder, _, names in os.walk(source):
        inside = target / Path(folder).relative_to(source)
        inside.mkdir(exist_ok=True)
        for name in names:
            _link(Path(folder) / name, inside / name)


def check_room(folder: Path, needed: int) -> None:
    """Refuse work whose result does not fit.

    Raises:
        OutputError: naming the needed and the free bytes.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(f"not enough space in {existing}: {needed:,} bytes needed, {free:,} free", hint=_HINT)


def size_of(folder: Path) -> int:
    """Return the bytes that the files below a folder hold together."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


_MARK = "-ggufkit-part-"
_HINT = "free some space, or set GGUFKIT_CACHE (downloads, builds) or XDG_DATA_HOME (the result) to another folder"


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source) if not source.is_symlink() else target.symlink_to(source.readlink())
    except OSError as error:
        # Another file system, too many links, or a file system that has none.
        if error.errno not in {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}:
            raise
        shutil.copy2(source, target)
