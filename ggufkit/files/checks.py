"""What is looked at before any work: whether an output may be written, and whether the disk has room for it."""

import contextlib
import os
import resource
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import OutputError, UsageError


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file about to be written: where, and how many bytes it will hold."""

    path: Path
    size: int


def check_output(path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = True) -> None:
    """Refuse, before any work, an output path that cannot or must not be written.

    Raises:
        UsageError: the output is one of the inputs (also by symbolic or hard link), or a folder.
        OutputError: the folder is missing or not writable, the name is taken, write-protected or no regular file's.
    """
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"output path is not valid UTF-8: {os.fspath(path)!r}") from None
    try:
        _check_output(path, inputs, overwrite=overwrite)
    except OSError as error:  # links in a circle, a path that is too long, a folder that may not be looked into
        raise OutputError(f"cannot write {os.fspath(path)[:200]}: {error.strerror}") from error


def _check_output(path: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    name, folder = os.fsencode(path.name), path.parent
    with contextlib.suppress(FileNotFoundError):
        path.stat()  # raises what `exists` passes over in silence
    if not folder.is_dir():
        raise OutputError(f"the output folder does not exist: {folder}", hint=f"mkdir -p {folder}")
    if len(name) > 200:
        raise OutputError(f"the output name is too long ({len(name)} bytes, at most 200): {path.name[:60]}…")
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(f"output and input are the same file: {path}", hint="name another output with -o")
    if path.is_dir():
        raise UsageError(f"the output is a folder: {path}", hint="name a file with -o")
    if path.is_symlink() and not path.exists():
        raise OutputError(f"the output is a broken symbolic link: {path}")
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode):
            raise OutputError(f"the output is not a regular file: {path}")
        if not os.access(path, os.W_OK):  # a rename would replace it all the same, and whoever protected it meant it
            raise OutputError(f"the output exists and is write-protected: {path}", hint="name another with -o")
        if not overwrite:
            raise OutputError(f"the output exists: {path}", hint="remove it, or name another with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {folder}", hint="name another folder with -o")


def check_space(files: Iterable[PlannedFile]) -> None:
    """Refuse a job whose files together do not fit on the file systems that they go to.

    A file that will be replaced stays until the new one is whole, so its bytes are not counted as free.

    Raises:
        OutputError: naming the needed and the free bytes of the first file system that is too small.
    """
    needed: dict[int, tuple[Path, int]] = {}
    for file in files:
        folder = file.path.parent
        device = folder.stat().st_dev
        _, so_far = needed.get(device, (folder, 0))
        needed[device] = (folder, so_far + file.size)
    for folder, size in needed.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise OutputError(
                f"not enough space in {folder}: {size:,} bytes needed, {free:,} free",
                hint="free some space, or write elsewhere with -o",
            )


def check_size_limit(path: Path, size: int) -> None:
    """Refuse a file that is larger than this process may write. Raises OutputError."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and size > limit:
        raise OutputError(f"cannot write {path}: {size:,} bytes needed, files may have {limit:,}", hint="see ulimit -f")
