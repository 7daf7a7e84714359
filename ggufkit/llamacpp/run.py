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
from ggufkit.undisturbed import undisturbed

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


class SilentError(LlamaCppError):
    """A program has written nothing for longer than it may, and was killed."""


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
    patience: float | None = None,
) -> Completed:
    """Run a program to its end; it never outlives us.

    `on_line` is called with every line of stdout and stderr as it comes, without its end: one of the bytes in
    `line_ends`. `environment` is added to ours. On any exception the whole process group is killed; on Linux the
    program also gets `death_signal` when we die without a chance to do that. One that writes nothing for `patience`
    seconds is killed as well (None: it may take its time).

    Raises:
        MissingDependencyError: there is no such program.
        LlamaCppError: it could not be started, or ended with another status than 0 (a DiedError: by a signal; a
            SilentError: it wrote nothing for too long).
    """
    command = tuple(str(argument) for argument in argv)
    started = time.monotonic()
    process = start(command, environment=environment, cwd=cwd, death_signal=death_signal, pass_fds=pass_fds)
    output = Output(on_line, line_ends)
    with process:
        try:
            output.follow(process, patience=patience)
            status = process.wait()
        except BaseException:
            kill(process)  # here, because leaving the outer block waits for the process to end
            raise
    if status:
        raise failure(command, status, output)
    text = b"".join(output.stdout).decode("utf-8", "replace")
    return Completed(command, status, "\n".join(output.last), text, time.monotonic() - started)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals | None = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
    takes_input: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program as `run` does, in a process group of its own. Whoever calls follows its output, and ends it.

    Raises:
        MissingDependencyError: there is no such program.
        LlamaCppError: it could not be started.
    """
    process = None
    try:
        with undisturbed():
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**_environment(), EXPENDABLE: "1", **(environment or {})},
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
    except BaseException:  # a signal that has waited until it was started
        if process:
            kill(process)
        raise
    return process


class Output:
    """Takes what a program writes on its two streams, cuts it into lines and keeps the last of them."""

    def __init__(
        self, on_line: Callable[[str], None] | None, line_ends: bytes = b"\r\n", *, keeps_stdout: bool = True
    ) -> None:
        """Call `on_line` with each line; `keeps_stdout` keeps all of that stream."""
        self.keeps_stdout = keeps_stdout
        self.last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self.last_errors: collections.deque[str] = collections.deque(maxlen=_QUOTED_LINES)
        self.stdout: list[bytes] = []
        self._rest: dict[int, bytes] = {}
        self._on_line = on_line
        self._line_end = re.compile(b"[" + re.escape(line_ends) + b"]")

    def follow(
        self,
        process: subprocess.Popen[bytes],
        until: Callable[[], bool] = lambda: False,
        *,
        patience: float | None = None,
    ) -> None:
        """Read both streams until they are closed, or `until` says that it is enough; a second call reads on.

        Raises:
            SilentError: nothing came for `patience` seconds.
        """
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ, stream is process.stderr)
            while selector.get_map():
                enough = until()
                ready = selector.select(0 if enough else patience)  # what is there already belongs to it
                if enough and not ready:
                    break
                if not ready and patience is not None:
                    raise SilentError(f"it wrote nothing for {patience:g} seconds")
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 16)
                    if not key.data and self.keeps_stdout:
                        self.stdout.append(chunk)
                    *lines, self._rest[key.fd] = self._line_end.split(self._rest.get(key.fd, b"") + chunk)
                    if not chunk or len(self._rest[key.fd]) > _LONGEST_LINE:
                        lines.append(self._rest.pop(key.fd))
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


def failure(command: Sequence[str], status: int, output: Output) -> LlamaCppError:
    """Make the error for a program that ended with another status than 0: it quotes what was said last."""
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


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: politely first, so that it can remove its temporary files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_DIE)
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _environment() -> dict[str, str]:
    """Copy ours: name by name, while other threads may remove some."""
    while True:
        with contextlib.suppress(KeyError):
            return dict(os.environ)


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
