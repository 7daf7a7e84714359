"""Running one of llama.cpp's programs: output line by line, no orphans, and an error that can be understood."""

import collections
import contextlib
import ctypes
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import LlamaCppError, MissingDependencyError

EXPENDABLE = "GGUFKIT_EXPENDABLE"  # set in the environment of those whose death somebody waits for

_KEPT_LINES = 200
_QUOTED_LINES = 4
_LONGEST_LINE = 1 << 20
_SECONDS_TO_DIE = 2.0
_PR_SET_PDEATHSIG = 1
_TELLING = re.compile(r"GGML_ASSERT|GGML_ABORT|\.(?:c|cpp|cu|h|m):\d+: |what\(\):|Fatal Python error|CUDA error")


class DiedError(LlamaCppError):
    """A program was ended by a signal, whose `number` it is."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended with status 0: `output` is the last 200 lines of both streams, `stdout` all of that one."""

    argv: tuple[str, ...]
    status: int
    output: str
    stdout: str
    seconds: float


def run(
    argv: Sequence[str | Path],
    *,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals | None = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
    line_ends: bytes = b"\r\n",
) -> Completed:
    """Run a program to its end; it never outlives us.

    `on_line` is called with every line of stdout and stderr as it comes, without its end: one of the bytes in
    `line_ends`. `environment` is added to ours. On any exception the whole process group is killed; on Linux the
    program also gets `death_signal` when we die without a chance to do that.

    Raises:
        MissingDependencyError: there is no such program.
        LlamaCppError: it could not be started, or ended with another status than 0 (a DiedError: by a signal).
    """
    command = tuple(str(argument) for argument in argv)
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, EXPENDABLE: "1", **(environment or {})},
            cwd=cwd,
            process_group=0,
            pass_fds=tuple(pass_fds),
            # One prepared libc call that takes no Python lock: safe between fork and exec.
            preexec_fn=die_with_parent(death_signal) if death_signal else None,
        )
    except FileNotFoundError as error:
        raise MissingDependencyError(f"no such program: {error.filename}", hint="ggufkit doctor") from None
    except OSError as error:
        raise LlamaCppError(f"cannot start {command[0]}: {error.strerror}", hint="ggufkit doctor") from error
    output = _Output(on_line, line_ends)
    with process:
        try:
            output.follow(process)
            status = process.wait()
        except BaseException:
            _kill(process)  # here, because leaving the outer block waits for the process to end
            raise
    if status:
        raise _failure(command, status, output)
    text = b"".join(output.stdout).decode("utf-8", "replace")
    return Completed(command, status, "\n".join(output.last), text, time.monotonic() - started)


class _Output:
    """Takes what a program writes on its two streams, cuts it into lines and keeps the last of them."""

    def __init__(self, on_line: Callable[[str], None] | None, line_ends: bytes) -> None:
        self.last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self.last_errors: collections.deque[str] = collections.deque(maxlen=_QUOTED_LINES)
        self.stdout: list[bytes] = []
        self._on_line = on_line
        self._line_end = re.compile(b"[" + re.escape(line_ends) + b"]")

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read both streams until they are closed."""
        rest: dict[int, bytes] = {}
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ, stream is process.stderr)
            while selector.get_map():
                for key, _ in selector.select():
                    chunk = os.read(key.fd, 1 << 16)
                    if not key.data:
                        self.stdout.append(chunk)
                    *lines, rest[key.fd] = self._line_end.split(rest.get(key.fd, b"") + chunk)
                    if not chunk or len(rest[key.fd]) > _LONGEST_LINE:
                        lines.append(rest.pop(key.fd))
                    if not chunk:
                        selector.unregister(key.fileobj)
                    for line in lines:
                        self._take(line, is_error=key.data)

    def _take(self, line: bytes, *, is_error: bool) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if not text:
            return
        self.last.append(text)
        if is_error:
            self.last_errors.append(text)
        if self._on_line:
            self._on_line(text)


def _failure(command: tuple[str, ...], status: int, output: _Output) -> LlamaCppError:
    quoted = list(output.last_errors) or list(output.last)[-_QUOTED_LINES:]
    said = " | ".join(line.strip() for line in quoted) or "it printed nothing"
    ended = f"{Path(command[0]).name} ended with {describe(status)}"
    if status < 0:
        with contextlib.suppress(ValueError):
            number = signal.Signals(-status)
            return DiedError(f"{ended}: {last_words(output.last) or said} (command: {shlex.join(command)})", number)
    return LlamaCppError(f"{ended}: {said} (command: {shlex.join(command)})")


def last_words(lines: Iterable[str]) -> str:
    """Find the first line about a failed assertion or an exception; the path of the source file is left out.

    A line that ends with a colon has its reason on the next one.
    """
    following = list(lines)
    while following:
        line = following.pop(0)
        if _TELLING.search(line):
            text = re.sub(r"^\S*/(?=[^/\s:]+:\d+: )", "", line.strip())
            text = re.sub(r"^what\(\):\s*", "", text)
            return f"{text} {following[0].strip()}" if text.endswith(":") and following else text
    return ""


def describe(status: int) -> str:
    """Name an exit status for people: `status 1`, or `signal SIGSEGV`."""
    if status >= 0:
        return f"status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: politely first, so that it can remove its temporary files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_DIE)
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Prepare what the child does between fork and exec: on Linux, ask for a signal at its parent's death."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask
