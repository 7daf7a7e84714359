"""Output that is either whole or absent: a temporary file beside the target, fsync, rename, fsync of the folder."""

import contextlib
import errno
import fcntl
import glob
import os
import re
import resource
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import OutputError, UsageError

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS}
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})  # of flock, where there are none
_PARTIAL_KINDS = ("ggufkit-partial", "ggufkit-journal")
_LOCK = "ggufkit-lock"
_PATIENCE = 0.5  # seconds
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.ggufkit-part")


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
    with _os_errors(path), locked(target) as alone:
        _remove_leftovers(target, alone=alone)
        _check_size_limit(path, size)
        check_space([PlannedFile(target, size)])
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        except BaseException:
            _remove(temporary)
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
            _sync(inner)


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that is not whole yet: its bytes so far, and the notes of what of them can be relied on."""

    path: Path
    journal: Path


@contextlib.contextmanager
def resumable_output(path: Path, *, size: int, keep_on: tuple[type[BaseException], ...] = ()) -> Iterator[PartialFile]:
    """As `atomic_output`, for work of hours: when the run is interrupted or killed, the next one may go on.

    What the block yields may exist already, from a run that was interrupted; it is the caller who knows, by the
    journal, what is in it. Both go away when the block ends well, and when it fails by anything but an interruption
    or the exceptions of `keep_on`.

    Raises:
        As `atomic_output`.
    """
    target = path.resolve()
    partial = PartialFile(*(target.parent / f".{target.name}.{kind}" for kind in _PARTIAL_KINDS))
    with _os_errors(path), locked(target) as alone:
        _remove_leftovers(target, partial=False, alone=alone)
        _check_size_limit(path, size)
        held = partial.path.stat().st_blocks * 512 if partial.path.exists() else 0
        check_space([PlannedFile(target, max(0, size - held))])
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        try:
            descriptor = os.open(partial.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            yield partial
            _sync(partial.path)
            partial.path.replace(target)
            _sync(target.parent)
            partial.journal.unlink(missing_ok=True)
        except BaseException as error:
            if not isinstance(error, (KeyboardInterrupt, SystemExit, *keep_on)):
                partial.path.unlink(missing_ok=True)
                partial.journal.unlink(missing_ok=True)
            raise


def is_begun(path: Path) -> bool:
    """Whether an interrupted run left a part of this output that the next one may go on with."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{_PARTIAL_KINDS[0]}").exists()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[bool]:
    """Hold the one right to write `target`; the lock file goes away with the last holder.

    Yields False where the file system has no locks: then another process may write it as well.

    Raises:
        OutputError: another process holds it; it is named.
    """
    lock = target.parent / f".{target.name}.{_LOCK}"
    descriptor, is_held = _take_lock(lock, target)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield is_held
    finally:
        try:
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _take_lock(lock: Path, target: Path) -> tuple[int, bool]:
    """Open and lock the file; wait a moment for those who only look whether a lock is a dead run's."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The former holder may have removed the file between our open and our lock: then it is no lock any more.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor, True
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise OutputError(
                    f"{target} is being written by process {holder}",
                    hint="wait for it, or name another output with -o",
                ) from None
            time.sleep(_PATIENCE / 20)
        except FileNotFoundError:  # removed between our two looks at it
            pass
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_leftovers(target: Path, *, partial: bool = True, alone: bool = True) -> None:
    """Remove temporary files that runs now dead left behind; `alone`: we hold the lock, so none is in use."""
    for kind in _PARTIAL_KINDS if partial and alone else ():
        target.with_name(f".{target.name}.{kind}").unlink(missing_ok=True)
    for file in target.parent.glob(f".{glob.escape(target.name)}.*.ggufkit-part"):
        found = _TEMPORARY.fullmatch(file.name)
        if found and found["name"] == target.name and (alone or not is_alive(int(found["pid"]))):
            _remove(file)


def tidy(path: Path) -> None:
    """Remove what a killed run left beside an output that need not be written, because it is there."""
    target = path.parent.resolve() / path.name
    with contextlib.suppress(OutputError, OSError), locked(target) as alone:
        _remove_leftovers(target, alone=alone)


def _remove(temporary: Path) -> None:
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left in a folder: temporary files, and the locks and journals of files that are whole.

    What the next run may go on with stays: a partial file and its journal.
    """
    for file in folder.glob(".*.ggufkit-part"):
        if (found := _TEMPORARY.fullmatch(file.name)) and not is_alive(int(found["pid"])):
            with contextlib.suppress(OutputError, OSError), locked(folder / found["name"]):
                _remove(file)
    partial, journal = _PARTIAL_KINDS
    for file in folder.glob(f".*.{journal}"):
        name = file.name.removeprefix(".").removesuffix(f".{journal}")
        with contextlib.suppress(OutputError, OSError), locked(folder / name):
            if not file.with_name(f".{name}.{partial}").exists():
                file.unlink(missing_ok=True)
    for lock in folder.glob(f".*.{_LOCK}"):
        if not _is_held(lock):
            name = lock.name.removeprefix(".").removesuffix(f".{_LOCK}")
            with contextlib.suppress(OutputError, OSError), locked(folder / name):
                pass  # whoever gets a lock removes it


def _is_held(lock: Path) -> bool:
    """Whether the process that is written into a lock lives, so that it need not be waited for."""
    try:
        return is_alive(int(lock.read_text()))
    except (OSError, ValueError):
        return False


def is_alive(process: int) -> bool:
    """Whether a process of this number runs; it may be another than the one that was meant."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
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


_HINTS = {
    errno.ENOSPC: "free some space, or write elsewhere with -o",
    errno.EACCES: "name another folder with -o",
    errno.EROFS: "name another folder with -o",
}


def _check_size_limit(path: Path, size: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and size > limit:
        raise OutputError(f"cannot write {path}: {size:,} bytes needed, files may have {limit:,}", hint="see ulimit -f")


def begin_writing_back(descriptor: int, start: int, size: int) -> None:
    """Let the system write this part of a file to the disk now and go on: the sync at the end finds less to do.

    Linux does so when told that the content is not needed soon (`generic_fadvise` in mm/fadvise.c); what is not on the
    disk yet stays in memory. Where there is no such call, nothing happens.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Read the umask; setting it for a moment is the only portable way."""
    current = os.umask(0o077)
    os.umask(current)
    return current
