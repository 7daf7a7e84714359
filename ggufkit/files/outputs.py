"""Output that is either whole or absent: a temporary file beside the target, fsync, rename, fsync of the folder."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.files.checks import PlannedFile, check_size_limit, check_space
from ggufkit.files.disk import sync, told_errors
from ggufkit.files.leftovers import PARTIAL_KINDS, remove, remove_leftovers_of
from ggufkit.files.locks import locked

_SECONDS_WORTH_KEEPING = 60.0  # of work; who interrupts sooner finds the folder as it was


@contextlib.contextmanager
def atomic_output(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, the file there takes the name `path`.

    Whatever happens before that, `path` keeps its old content or stays absent. A disk with less than `size`
    bytes free is refused at the start. (They are looked at, not reserved: writing into reserved blocks of ext4 takes
    four times as long.) One process writes a path at a time. The new file has the
    mode of the file that it replaces, else the one that the umask gives.

    Raises:
        OutputError: no space, no permission, or another process is writing the same path.
    """
    with atomic_name(path, size=size) as temporary:
        target = path.resolve()
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        yield temporary


@contextlib.contextmanager
def atomic_name(path: Path, *, size: int = 0, follow: bool = True) -> Iterator[Path]:
    """As `atomic_output`, for what makes the file itself, such as a link: at the path that is yielded there is none.

    Without `follow` a symbolic link that has the name is replaced, not what it leads to.

    Raises:
        As `atomic_output`.
    """
    target = path.resolve() if follow else path.parent.resolve() / path.name
    temporary = target.parent / f".{target.name}.{os.getpid()}.ggufkit-part"
    with told_errors(path), locked(target) as alone:
        remove_leftovers_of(target, alone=alone)
        check_size_limit(path, size)
        check_space([PlannedFile(target, size)])
        try:
            yield temporary
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)
        except BaseException:
            remove(temporary)
            raise


@contextlib.contextmanager
def atomic_folder(path: Path, *, size: int = 0) -> Iterator[Path]:
    """As `atomic_output`, for a new folder of files: yields an empty one. Where `path` is, it must be an empty folder.

    Raises:
        OutputError: as `atomic_output`, or there is something in the folder.
    """
    with atomic_name(path, size=size) as temporary:
        temporary.mkdir()
        yield temporary
        for inner in sorted(temporary.rglob("*")):
            sync(inner)


@dataclass(slots=True)
class PartialFile:
    """A file that is not whole yet: its bytes so far, and the notes of what of them can be relied on."""

    path: Path
    journal: Path
    worth_keeping: bool = False  # however short a time was put into it


@contextlib.contextmanager
def resumable_output(path: Path, *, size: int, keep_on: tuple[type[BaseException], ...] = ()) -> Iterator[PartialFile]:
    """As `atomic_output`, for work of hours: when the run is interrupted or killed, the next one may go on.

    What the block yields may exist already, from a run that was interrupted; it is the caller who knows, by the
    journal, what is in it. Both go away when the block ends well, and when it fails by anything but an interruption
    or the exceptions of `keep_on`; then too if less than a minute was put into them, unless `worth_keeping` was set.

    Raises:
        As `atomic_output`.
    """
    target = path.resolve()
    begun, notes = (target.parent / f".{target.name}.{kind}" for kind in PARTIAL_KINDS)
    partial = PartialFile(begun, notes)
    with told_errors(path), locked(target) as alone:
        remove_leftovers_of(target, partial=False, alone=alone)
        check_size_limit(path, size)
        was_there = notes.exists()
        held = partial.path.stat().st_blocks * 512 if partial.path.exists() else 0
        check_space([PlannedFile(target, max(0, size - held))])
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        started = time.monotonic()
        try:
            descriptor = os.open(partial.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            yield partial
            sync(partial.path)
            partial.path.replace(target)
            sync(target.parent)
            partial.journal.unlink(missing_ok=True)
        except BaseException as error:
            worth_it = partial.worth_keeping or was_there or time.monotonic() - started >= _SECONDS_WORTH_KEEPING
            if not (worth_it and isinstance(error, (KeyboardInterrupt, SystemExit, *keep_on))):
                partial.path.unlink(missing_ok=True)
                partial.journal.unlink(missing_ok=True)
            raise


def is_begun(path: Path) -> bool:
    """Whether an interrupted run left a part of this output that the next one may go on with."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{PARTIAL_KINDS[0]}").exists()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


def _umask() -> int:
    """Read the umask; setting it for a moment is the only portable way."""
    current = os.umask(0o077)
    os.umask(current)
    return current
