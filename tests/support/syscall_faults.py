"""Faults at system calls of a program and all its children: the kernel asks us before each one that changes a file.

This is seccomp's user notification (Linux 5.9 and later): no root, no ptrace, no compiler, and one count over all
threads and child processes, where `strace -e inject=...:when=N` counts each thread for itself. Read from seccomp(2),
seccomp_unotify(2) and linux/seccomp.h.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_RET_ALLOW, _RET_NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of BPF: ld [k], jeq k, jset k, ret k
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1
_PIDFD_GETFD = 438  # on every machine
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

# name: numbers on x86_64 and aarch64, and which arguments say what file is meant: (folder, path) or (descriptor,)
_CALLS: dict[str, tuple[int, int, tuple[int | None, ...]]] = {
    "write": (1, 64, (0,)),
    "pwrite64": (18, 68, (0,)),
    "writev": (20, 66, (0,)),
    "pwritev": (296, 70, (0,)),
    "pwritev2": (328, 287, (0,)),
    "sendfile": (40, 71, (0,)),
    "copy_file_range": (326, 285, (2,)),
    "fallocate": (285, 47, (0,)),
    "ftruncate": (77, 46, (0,)),
    "truncate": (76, 45, (None, 0)),
    "fsync": (74, 82, (0,)),
    "fdatasync": (75, 83, (0,)),
    "close": (3, 57, (0,)),
    "fchmod": (91, 52, (0,)),
    "open": (2, -1, (None, 0)),
    "openat": (257, 56, (0, 1)),
    "rename": (82, -1, (None, 1)),
    "renameat": (264, 38, (2, 3)),
    "renameat2": (316, 276, (2, 3)),
    "link": (86, -1, (None, 1)),
    "linkat": (265, 37, (2, 3)),
    "symlinkat": (266, 36, (1, 2)),
    "symlink": (88, -1, (None, 1)),
    "unlink": (87, -1, (None, 0)),
    "unlinkat": (263, 35, (0, 1)),
    "mkdir": (83, -1, (None, 0)),
    "mkdirat": (258, 34, (0, 1)),
    "rmdir": (84, -1, (None, 0)),
    "chmod": (90, -1, (None, 0)),
    "fchmodat": (268, 53, (0, 1)),
    "flock": (73, 32, (0,)),
    "ioctl": (16, 29, (0,)),  # FICLONE
}
# The same for calls that read a file; what is mapped into memory is read without any.
_READS: dict[str, tuple[int, int, tuple[int | None, ...]]] = {
    "read": (0, 63, (0,)),
    "pread64": (17, 67, (0,)),
    "readv": (19, 65, (0,)),
    "preadv": (295, 69, (0,)),
    "preadv2": (327, 286, (0,)),
    "sendfile": (40, 71, (1,)),
    "copy_file_range": (326, 285, (0,)),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(platform.machine(), 0)
_FLAGS_AT = {"open": 24, "openat": 32}  # where in seccomp_data the flags of opening are; little-endian, low half


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that is about to happen to a file in the watched folder; `number` counts them from 1."""

    number: int
    name: str
    path: Path
    process: int

    def __str__(self) -> str:
        return f"{self.name} {self.path.name}"


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call does not happen; it fails with this error."""

    error: int


@dataclass(frozen=True, slots=True)
class Shorten:
    """The call writes half of what it was given, as the kernel may do at any time; at least a byte."""


Decide = Callable[[Call], "Refuse | Shorten | None"]
"""Says what becomes of a call; it may also kill, or send a signal. None: it happens."""


def why_not() -> str:
    """Say why this machine cannot do it; empty if it can."""
    if _COLUMN is None:
        return f"no table of system calls for {platform.machine()}"
    child = os.fork()
    if child == 0:
        try:
            listen()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"seccomp does not notify here: {os.strerror(code)}" if code else ""


def listen(*, reads: bool = False) -> int:
    """Have our calls, and those of what we start, reported on the descriptor that is returned. For a single thread.

    Args:
        reads: report the calls that read, not those that write.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    program = _filter(_READS if reads else _CALLS)
    content = ctypes.create_string_buffer(b"".join(program), len(program) * 8)
    header = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(content)), 16)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    number = {0: 317, 1: 277}[_COLUMN or 0]
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        descriptor: int = libc.syscall(number, _SET_MODE_FILTER, flags, header)
        if descriptor >= 0:
            return descriptor
    raise OSError(ctypes.get_errno(), "seccomp")


def _filter(calls: Mapping[str, tuple[int, int, object]]) -> list[bytes]:
    """Assemble: other machines' calls pass; of ours those in the table are reported, opening only for writing."""

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    program = [step(_LOAD, 4), step(_EQUAL, _AUDIT, 1, 0), step(_RETURN, _RET_ALLOW), step(_LOAD, 0)]
    for name, (*numbers, _) in calls.items():
        number = numbers[_COLUMN or 0]
        if number < 0:
            continue
        if name in _FLAGS_AT:
            program += [
                step(_EQUAL, number, 0, 4),
                step(_LOAD, _FLAGS_AT[name]),
                step(_ANY_BIT, _WRITES, 0, 1),
                step(_RETURN, _RET_NOTIFY),
                step(_RETURN, _RET_ALLOW),
            ]
        else:
            program += [step(_EQUAL, number, 0, 1), step(_RETURN, _RET_NOTIFY)]
    return [*program, step(_RETURN, _RET_ALLOW)]


class Watch:
    """Answers the kernel's questions about calls to files in some folders until the last process is gone."""

    def __init__(self, listener: int, folders: list[Path], decide: Decide, *, reads: bool = False) -> None:
        self.calls: list[Call] = []
        self._listener = listener
        self._folders = [f"{folder}/" for folder in folders]
        self._decide = decide
        self._table = _READS if reads else _CALLS
        self._names = {numbers[_COLUMN or 0]: name for name, (*numbers, _) in self._table.items()}

    def run(self) -> None:
        """Answer until nobody is left who could ask."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            for _, event in poll.poll():
                if event & select.POLLIN:
                    self._answer()
                elif event:
                    return

    def _answer(self) -> None:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
        except OSError as error:  # whoever asked was killed meanwhile
            if error.errno in {errno.ENOENT, errno.EINTR}:
                return
            raise
        identity, process, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        answer = None
        if path := self._path(self._names[number], process, arguments):
            call = Call(len(self.calls) + 1, self._names[number], path, process)
            self.calls.append(call)
            answer = self._decide(call)
        value, error, flags = 0, 0, _CONTINUE
        if isinstance(answer, Refuse):
            error, flags = -answer.error, 0
        elif isinstance(answer, Shorten) and arguments[2] > 1:
            value, flags = _write_half(self._names[number], process, arguments), 0
        with contextlib.suppress(OSError):  # killed, or interrupted by a signal: then it asks again
            fcntl.ioctl(self._listener, _SEND, _RESPONSE.pack(identity, value, error, flags))

    def _path(self, name: str, process: int, arguments: list[int]) -> Path | None:
        """Find out which file of ours a call is about."""
        where = self._table[name][2]
        try:
            if len(where) == 1:
                path = str(Path(f"/proc/{process}/fd/{arguments[where[0] or 0] & 0xFFFFFFFF}").readlink())
            else:
                folder, at = where
                path = _text(process, arguments[at or 0])
                if not path.startswith("/"):
                    number = -100 if folder is None else ctypes.c_int(arguments[folder] & 0xFFFFFFFF).value
                    base = f"/proc/{process}/cwd" if number == -100 else f"/proc/{process}/fd/{number}"
                    path = os.path.normpath(f"{Path(base).readlink()}/{path}")
        except OSError:
            return None
        if not any(f"{path}/".startswith(folder) for folder in self._folders):
            return None
        if name == "close" and not _is_written(process, arguments[0] & 0xFFFFFFFF):
            return None
        return Path(path.removesuffix(" (deleted)"))


def _write_half(name: str, process: int, arguments: list[int]) -> int:
    """Do `write` or `pwrite64` in place of a process, but for the second half; returns what it shall be told."""
    number, address, size, place = arguments[:4]
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        content = memory.read(size // 2)
    status = Path(f"/proc/{process}/status").read_text()
    whole = os.pidfd_open(int(status.split("Tgid:")[1].split()[0]))
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, whole, number & 0xFFFFFFFF, 0)
    os.close(whole)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    try:  # one description of the file, so that its position moves for both
        return os.pwrite(descriptor, content, place) if name == "pwrite64" else os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _text(process: int, address: int) -> str:
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        content = b""
        while b"\0" not in content and len(content) < 4096:
            content += memory.read(256 - (address + len(content)) % 256)
    return os.fsdecode(content.partition(b"\0")[0])


def _is_written(process: int, descriptor: int) -> bool:
    try:
        flags = Path(f"/proc/{process}/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0]
    except OSError:  # killed meanwhile
        return False
    return bool(int(flags, 8) & (os.O_WRONLY | os.O_RDWR))


def kill_at(number: int, process: Callable[[], int], signal_number: int = signal.SIGKILL) -> Decide:
    """Kill a process just before the n-th call, or send it another signal."""

    def decide(call: Call) -> Refuse | None:
        if call.number == number:
            os.kill(process(), signal_number)
        return None

    return decide


def fail_at(number: int, error: int, *, lasting: bool = False) -> Decide:
    """Let the n-th call fail; with `lasting` also all later ones that need room on the disk, as when it is full."""

    def decide(call: Call) -> Refuse | None:
        needs_room = call.name not in {"unlink", "unlinkat", "rmdir", "close", "flock", "fchmod", "chmod", "ioctl"}
        return Refuse(error) if call.number == number or (lasting and call.number > number and needs_room) else None

    return decide


def shorten(call: Call) -> Shorten | None:
    """Let every write write half of what it was given."""
    return Shorten() if call.name in {"write", "pwrite64"} else None


def without_locks(error: int) -> Decide:
    """Have no locks, as some network file systems."""
    return lambda call: Refuse(error) if call.name == "flock" else None
