"""How files come into Ollama's store: under another name first, flushed, with the owner and mode that belong there."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ggufkit.errors import OutputError, UsageError
from ggufkit.exports.ollama.manifests import DIGEST
from ggufkit.exports.ollama.store import Store
from ggufkit.files import PlannedFile, check_space

_TEMPORARY = "ggufkit-part-"
_UNUSED = "ggufkit-unused-"
_ELSEWHERE = "free some space, or name another store with --store"
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # such as folders on NFS


def check_writable(store: Store, command: str, model: Path | None = None) -> None:
    """Refuse a store that we may not write to; `command`, which reads `model`, is the rest of a `ggufkit` command line.

    Raises:
        OutputError: with the command that may, as the user who owns it.
        UsageError: something there is no folder.
    """
    for folder in (store.path, store.blobs, store.manifests):
        nearest = _nearest(folder)
        if not nearest.is_dir():
            raise UsageError(f"{nearest} is no folder, so {store.path} is no model store", hint="see --store")
        if os.access(nearest, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            continue
        owner = nearest.stat().st_uid
        if owner == os.geteuid():
            closed = nearest.stat().st_mode & 0o300 != 0o300
            hint = f"chmod u+wx {nearest}" if closed else "it may be mounted read-only; --store names another"
            raise OutputError(f"no permission to write in {nearest}", hint=hint)
        user = _user_name(owner)
        closed_to_user = model is not None and _is_seen(model) and not _is_open_to_all(model.resolve())
        raise OutputError(
            f"no permission to write in {nearest}: the model store belongs to user {user}",
            hint=f"sudo -u {user} ggufkit {command}"
            + (f" (without -u {user}, if that user may not read the model)" if closed_to_user else ""),
        )


def owner_of(store: Store) -> int:
    """Number the user who owns the store, or its nearest folder that exists."""
    return _nearest(store.blobs).stat().st_uid


@contextlib.contextmanager
def locked(store: Store, *, alone: bool, drop: Callable[[Store, Iterable[str]], object]) -> Iterator[int]:
    """Hold the lock on a store, with others or alone; yields its descriptor. Leftovers of killed runs are removed.

    `drop` removes blobs of these digests that no model names: those that a killed run had noted.

    On a file system without locks nothing is held: leftovers stay, and so do blobs of a model that is replaced.

    Raises:
        OutputError: alone, while others hold it.
    """
    descriptor = os.open(store.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if take_alone(descriptor):
            _remove_leftovers(store)  # we are alone, so nobody is at work on them
            for note in _notes(store):
                words = note.read_text(encoding="utf-8", errors="replace").split()
                drop(store, [word for word in words if DIGEST.fullmatch(word)])  # a power cut may have halved it
                note.unlink(missing_ok=True)
        elif alone and _has_locks(descriptor):
            raise OutputError(f"{store.path} is being written by another ggufkit", hint="try again when it is done")
        if not alone and _has_locks(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever is alone is so for a moment only
        yield descriptor
    finally:
        os.close(descriptor)


def take_alone(lock: int) -> bool:
    """Try to hold a lock alone. When others hold it, what we held of it is lost: flock does not convert in one step."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _has_locks(descriptor: int) -> bool:
    """Tell whether locks can be held on a file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def note_unused(store: Store, digests: Sequence[str]) -> Path:
    """Note blobs that will soon be of no use: should we be killed before they are gone, the next run removes them."""
    note = store.path / f".{_UNUSED}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with _errors(store):
            write_new(store, note, "\n".join(digests).encode())
    except BaseException:
        note.unlink(missing_ok=True)
        raise
    return note


@contextlib.contextmanager
def temporary_file(store: Store, folder: Path) -> Iterator[Path]:
    """Yield a name for a file that is not ready to be in `folder`; it is gone in the end.

    It lies beside the folder, when it can: a server that starts may remove what is no blob from among the blobs, and
    takes every file four levels below `manifests/` for a model.
    """
    path = (
        store.path if same_device(store.path, folder) else folder
    ) / f".{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with _errors(store):
            yield path
    finally:
        path.unlink(missing_ok=True)


def write_new(store: Store, path: Path, content: bytes) -> None:
    """Write a small file that is on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - it is a descriptor
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    own(store, path, 0o644)


def rename(temporary: Path, path: Path) -> None:
    """Give a file its name, for good."""
    temporary.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """See a file, or the names in a folder, safely on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(store: Store, folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder, as a model store needs it", hint="move it away, or see --store")
    with _errors(store):
        for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                own(store, path, 0o755)


def own(store: Store, path: Path, mode: int) -> None:
    """Set the mode that Ollama sets; when root writes to another's store, what is new becomes his."""
    path.chmod(mode)
    if os.geteuid() == 0:
        status = _nearest(store.path).stat()
        os.chown(path, status.st_uid, status.st_gid)


def check_room(path: Path, size: int) -> None:
    """Refuse to copy more than the disk can take. Raises OutputError."""
    try:
        check_space([PlannedFile(path, size)])
    except OutputError as error:
        raise OutputError(str(error), hint=_ELSEWHERE) from error


def touch(path: Path) -> None:
    """Let a blob look new, so that a server that starts does not take it for one that nobody wants."""
    with contextlib.suppress(PermissionError):  # a blob of another user, which is in use or young all the same
        os.utime(path)


def same_device(one: Path, other: Path) -> bool:
    """Tell whether two paths lie on one file system."""
    return one.stat().st_dev == other.stat().st_dev


@contextlib.contextmanager
def _errors(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"the store belongs to user {_user_name(owner_of(store))}" if error.errno in _DENIED else None
        if error.errno == errno.ENOSPC:
            hint = _ELSEWHERE
        raise OutputError(
            f"cannot write {error.filename2 or error.filename or store.path}: {error.strerror}", hint=hint
        ) from error


def _remove_leftovers(store: Store) -> None:
    for folder in {store.path, store.blobs, store.manifests}:
        for path in folder.glob(f".{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


def _notes(store: Store) -> list[Path]:
    """List the notes of runs that are no more."""
    return sorted(store.path.glob(f".{_UNUSED}*"))


def _nearest(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if _is_seen(folder)), Path("/"))


def _is_open_to_all(path: Path) -> bool:
    """Tell whether any user may read a file."""
    return bool(path.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in path.parents)


def _is_seen(path: Path) -> bool:
    """Tell whether there is something, as far as we may look: Ollama's own user may have closed his home."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
