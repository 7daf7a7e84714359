"""One process writes an output at a time: a locked file beside it, which goes away with the last holder."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.undisturbed import undisturbed

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})  # of flock, where there are none
LOCK = "ggufkit-lock"
_PATIENCE = 0.5  # seconds


@contextlib.contextmanager
def locked(
    target: Path, *, said: str | None = None, hint: str = "wait for it, or name another output with -o"
) -> Iterator[bool]:
    """Hold the one right to write `target`; the lock file goes away with the last holder.

    Yields False where the file system has no locks: then another process may write it as well. `said` is what the
    process that holds it does, as in "FILE is being written", the default.

    Raises:
        OutputError: another process holds it; it is named.
    """
    lock = target.parent / f".{target.name}.{LOCK}"
    held: int | None = None
    try:
        with undisturbed():  # a signal between the file and the `try` around it would leave the file behind
            held, alone = _take_lock(lock, said or f"{target} is being written", hint)
        os.truncate(held, 0)
        os.pwrite(held, str(os.getpid()).encode(), 0)
        yield alone
    finally:
        if held is not None:
            with undisturbed():
                try:
                    lock.unlink(missing_ok=True)
                finally:
                    os.close(held)


def _take_lock(lock: Path, said: str, hint: str) -> tuple[int, bool]:
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
                raise OutputError(f"{said} by process {holder}", hint=hint) from None
            time.sleep(_PATIENCE / 20)
        except FileNotFoundError:  # removed between our two looks at it
            pass
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            if not is_held(lock):
                lock.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def is_held(lock: Path) -> bool:
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
