"""Surviving llama.cpp: the engine works in a process of its own, and ours, which is its parent, tells how it ended.

A model that is wrong can make llama.cpp abort or read beyond its memory, which no `except` can catch. So a command
that is about to load one forks while it is still small: the child goes on, the parent waits and leaves as the child
did, or says in one line what ended it. Terminal, streams and working folder are shared, so nothing looks different.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.run import EXPENDABLE, die_with_parent, last_words

_CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SENT_BY_KERNEL = 0x80  # si_code SI_KERNEL: a key in the terminal, which sent it to the child as well
_MOST_READ = 1 << 16


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
    waited = {signal.SIGCHLD, *(number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    prepare = die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some launchers leave it, nobody would tell of the end
    child = os.fork()
    if child == 0:
        if prepare:
            prepare()
        _keep_c_apart(said)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = _wait(child, waited)
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


def _wait(child: int, waited: set[signal.Signals]) -> int:
    """Wait for the end of the child, and give it the signals that are sent to us alone."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        got = signal.sigwaitinfo(waited)
        if got.si_signo != signal.SIGCHLD and got.si_code != _SENT_BY_KERNEL and got.si_pid != child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, got.si_signo)


def _keep_c_apart(said: int) -> None:
    """Leave stderr to Python, and send what C writes there into a file in memory that our parent reads afterwards."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else a debugger is started to print our whole stack
    os.environ[EXPENDABLE] = "1"
    ours = os.dup(2)
    sys.stderr = os.fdopen(ours, "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors, buffering=1)
    os.dup2(said, 2)
