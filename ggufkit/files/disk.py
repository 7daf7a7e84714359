"""The disk under a file: its errors told in one line, and when what was written is really on it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ggufkit.errors import OutputError

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS}
_HINTS = {
    errno.ENOSPC: "free some space, or write elsewhere with -o",
    errno.EACCES: "name another folder with -o",
    errno.EROFS: "name another folder with -o",
}


@contextlib.contextmanager
def told_errors(path: Path) -> Iterator[None]:
    """Turn what a disk can do to us into one line, which names the output unless the system names another file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        if error.filename is not None and not _is_beside(Path(os.fsdecode(error.filename)), path):
            raise OutputError(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}") from error
        raise OutputError(f"cannot write {path}: {error.strerror}", hint=_HINTS.get(error.errno or 0)) from error


def _is_beside(file: Path, output: Path) -> bool:
    """Tell whether a file is the output, a hidden one beside it that has its name too, in such a folder, or theirs."""
    target = output.resolve()
    return any(
        each in (target.parent, output.parent) or (target.name in each.name and each.parent.resolve() == target.parent)
        for each in (file, *file.parents)
    )


def begin_writing_back(descriptor: int, start: int, size: int) -> None:
    """Let the system write this part of a file to the disk now and go on: the sync at the end finds less to do.

    Linux does so when told that the content is not needed soon (`generic_fadvise` in mm/fadvise.c); what is not on the
    disk yet stays in memory. Where there is no such call, nothing happens.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
