"""Bringing a large file to another name, with as little copying as the file system asks for, and hashing it."""

import contextlib
import enum
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.progress import Progress, silent

_FICLONE = 0x40049409  # linux/fs.h: make one file share the blocks of another
_CHUNK = 4 << 20
_CANNOT = {
    *(errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP),
    *(errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.ETXTBSY),
}


class Way(enum.StrEnum):
    """How a file gets a second name: sharing blocks until one is changed, sharing everything, or not sharing."""

    REFLINK = "reflink"
    HARD_LINK = "hard link"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Placed:
    """A file under its new name: how it came there, the SHA-256 of its content in hexadecimal, its size in bytes."""

    way: Way
    sha256: str
    size: int


def place(
    source: Path, target: Path, *, owner: int | None = None, copy: bool = False, progress: Progress = silent
) -> Placed:
    """Give the content of `source` the new name `target`, and hash it. The data is on the disk when this returns.

    A reflink is tried first: it shares no more than blocks. A hard link shares the mode and the time of change too, so
    it is made only where `owner`, who will use it, owns the file (None: whoever runs this). The caller removes
    `target` when this fails.

    Raises:
        InputError: the source cannot be read, or changed meanwhile.
        OSError: the target cannot be written.
    """
    with _opened(source) as descriptor:
        before = os.fstat(descriptor)
        way = Way.COPY
        if not copy and _reflinked(descriptor, target):
            way = Way.REFLINK
        elif not copy and before.st_uid == (os.geteuid() if owner is None else owner) and _linked(source, target):
            way = Way.HARD_LINK
        if way is Way.COPY:
            digest = _copied(descriptor, target, before.st_size, progress)
        else:
            digest = _flushed_and_hashed(target, before.st_size, progress)
        after = os.fstat(descriptor)
        if _identity(before) != _identity(after):
            raise InputError(f"{source} changed while it was exported", hint="wait until it is written, then try again")
    return Placed(way, digest, before.st_size)


def sha256_of(path: Path, progress: Progress = silent, stage: str = "hashing") -> str:
    """Hash a file; hexadecimal. Raises InputError when it cannot be read."""
    with _opened(path) as descriptor:
        return _hashed(descriptor, os.fstat(descriptor).st_size, progress, stage)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reflinked(source: int, target: Path) -> bool:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.ioctl(descriptor, _FICLONE, source)
    except OSError as error:
        target.unlink()
        if error.errno not in _CANNOT:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _copied(source: int, target: Path, size: int, progress: Progress) -> str:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:

        def write(chunk: memoryview) -> None:
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]

        digest = _hashed(source, size, progress, "copying", write)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest


def _flushed_and_hashed(path: Path, size: int, progress: Progress) -> str:
    """Hash a file while the system writes to the disk what may still be in memory of it."""
    failures: list[OSError] = []

    def flush(descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:  # the system tells of it but once
            failures.append(error)

    with _opened(path) as descriptor:
        flushing = threading.Thread(target=flush, args=(descriptor,))
        flushing.start()
        try:
            digest = _hashed(descriptor, size, progress, "hashing")
        finally:
            flushing.join()
    if failures:
        raise failures[0]
    return digest


def _hashed(
    descriptor: int, size: int, progress: Progress, stage: str, use: Callable[[memoryview], None] | None = None
) -> str:
    """Hash the first `size` bytes of a file, which may grow meanwhile, from its start."""
    state = hashlib.sha256()
    done = 0
    progress(stage, 0, size)
    while chunk := os.pread(descriptor, min(_CHUNK, size - done), done):
        state.update(chunk)
        if use:
            use(memoryview(chunk))
        done += len(chunk)
        progress(stage, done, size)
    return state.hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
