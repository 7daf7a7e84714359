"""Surviving llama.cpp: the engine works in a process of its own, and ours, which is its parent, tells how it ended.

A model that is wrong can make llama.cpp abort or read beyond its memory, which no `except` can catch. So a command
that is about to load one forks while it is still small: the child goes on, the parent waits and leaves as the child
did, or says in one line what ended it. Terminal, streams and working folder are shared, so nothing looks different.
"""

import contextlib
import fcntl
import math
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.run import EXPENDABLE, die_with_parent, last_words

_CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SENT_BY_KERNEL = 0x80  # si_code SI_KERNEL: a key in the terminal, which sent it to the child as well
_MOST_READ = 1 << 16
_LOOKS_AFTER = 0.5  # seconds between looks at a child that may not obey
_SECONDS_TO_END = 5.0
_MOST_INTERRUPTS = 3  # within so many seconds, before it is killed
_PATIENCE_FOR_INTERRUPTS = 20.0
_MOMENT = 0.1  # seconds within which one `kill` reaches all processes of a group


def survive(model: Path) -> None:
    """Fork; return in the child only. The parent waits for it, and does not return unless llama.cpp died.

    It leaves with the child's exit status, or dies of the signal that somebody sent the child. Where this cannot be
    done (no Linux, threads are running) nothing happens.

    Raises:
        LlamaCppError: in the parent: llama.cpp died, or was killed for want of memory.
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    said = os.memfd_create("what llama.cpp says")
    heard, tell = os.pipe()
    for descriptor in (heard, tell):
        os.set_blocking(descriptor, False)
    passed_on = {number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN}
    waited = {signal.SIGCHLD, signal.SIGIO, *passed_on}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    prepare = die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some launchers leave it, nobody would tell of the end
    child = os.fork()
    if child == 0:
        if prepare:
            prepare()
        _keep_c_apart(said)
        os.close(heard)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)  # whatever signal comes, its number is written there
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os.close(tell)
    supervisor = _Supervisor(child, heard)
    status = supervisor.wait(waited)
    os.close(heard)
    if supervisor.killed_for:
        os._exit(128 + supervisor.killed_for)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # one may wait for us, and would end us
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = signal.Signals(os.WTERMSIG(status))
    if number not in _CRASHES and number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    last = os.pread(said, _MOST_READ, max(0, os.fstat(said).st_size - _MOST_READ))
    raise stopped(number, last.decode("utf-8", "replace").splitlines(), model)


def is_expendable() -> bool:
    """Tell whether our death would be noticed and reported by a process of ggufkit that waits for us."""
    return EXPENDABLE in os.environ


def stopped(number: signal.Signals, lines: Iterable[str], model: Path) -> LlamaCppError:
    """Make the error that says of which signal llama.cpp died on a model, and what it said just before."""
    why = last_words(lines)
    if not why and number == signal.SIGKILL:
        why = "it was killed, perhaps for want of memory"
    return LlamaCppError(
        f"llama.cpp stopped ({number.name}{': ' + why if why else ''}) on {model}",
        hint="ggufkit check tells what is wrong with a model" if number in _CRASHES else None,
    )


class _Supervisor:
    """Waits for the child, and gives it the signals that were sent to us alone.

    One that was sent to the whole group, by a terminal or by `kill`, has reached the child already: a second one would
    mean something else to it. So the child tells by a pipe which signals come to it, and when.

    While it is in a function of C that does not end, it cannot obey. Then it is killed: a while after it was told to
    end, or when somebody goes on pressing Ctrl-C and it goes on computing.

    Attributes:
        killed_for: the signal that it did not obey, 0: none.
    """

    def __init__(self, child: int, heard: int) -> None:
        self._child, self._pipe = child, heard
        self._heard: dict[int, float] = {}  # when the child got a signal that was not of ours
        self._sent: dict[int, float] = {}
        self.killed_for = 0
        self._told_to_end = (0, math.inf)  # the signal, and when
        self._interrupts: list[tuple[float, float]] = []  # when, and the processor's seconds that it had used by then
        fcntl.fcntl(heard, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(
            heard, fcntl.F_SETFL, fcntl.fcntl(heard, fcntl.F_GETFL) | os.O_ASYNC
        )  # SIGIO when it says something

    def wait(self, waited: set[signal.Signals]) -> int:
        """Return the status with which the child ended."""
        while True:
            done, status = os.waitpid(self._child, os.WNOHANG)
            if done:
                return status
            got = signal.sigtimedwait(waited, _LOOKS_AFTER)
            self._is_told()
            if got is None:
                self._end_deaf_child()
                continue
            if got.si_signo in {signal.SIGCHLD, signal.SIGIO} or got.si_pid == self._child:
                continue
            self._note(got.si_signo)
            if got.si_code != _SENT_BY_KERNEL and not self._has_reached_child(got.si_signo):
                self._sent[got.si_signo] = time.monotonic()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, got.si_signo)

    def _note(self, number: int) -> None:
        """Note what the child should do of which signal, whoever gives it to it."""
        now = time.monotonic()
        if number == signal.SIGINT:
            recent = [each for each in self._interrupts if now - each[0] < _PATIENCE_FOR_INTERRUPTS]
            self._interrupts = [*recent, (now, _seconds_used(self._child))]
        elif self._told_to_end[0] == 0:
            self._told_to_end = number, now

    def _end_deaf_child(self) -> None:
        now = time.monotonic()
        number, since = self._told_to_end
        if len(self._interrupts) >= _MOST_INTERRUPTS:
            last, used = self._interrupts[-1]
            if now - last > _SECONDS_TO_END and _seconds_used(self._child) - used > 0.5 * (now - last):
                self.killed_for = signal.SIGINT
        if now - since > _SECONDS_TO_END:
            self.killed_for = number
        if self.killed_for:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    def _is_told(self) -> bool:
        """Note what the child has said, but of what we sent it; tell whether there is one that may say more."""
        now = time.monotonic()
        try:
            numbers = os.read(self._pipe, 256)
        except BlockingIOError:
            return True
        for number in numbers:
            if now - self._sent.pop(number, -_MOMENT) >= _MOMENT:
                self._heard[number] = now
        return bool(numbers)

    def _has_reached_child(self, number: int) -> bool:
        end = time.monotonic() + _MOMENT
        since = end - 2 * _MOMENT
        while (left := end - time.monotonic()) > 0:
            if self._heard.pop(number, 0.0) > since:
                return True
            select.select([self._pipe], [], [], left)
            if not self._is_told():
                break
        return _is_pending(self._child, number)  # the child had no time to take it, and takes it once


def _seconds_used(process: int) -> float:
    """Return the seconds of the processor that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime


def _is_pending(process: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _keep_c_apart(said: int) -> None:
    """Leave stderr to Python, and send what C writes there into a file in memory that our parent reads afterwards."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else a debugger is started to print our whole stack
    os.environ[EXPENDABLE] = "1"
    ours = os.dup(2)
    sys.stderr = os.fdopen(ours, "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors, buffering=1)
    os.dup2(said, 2)
