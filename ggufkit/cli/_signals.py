"""Signals that end us become an orderly end: temporary files go, child processes die, and the exit code says why."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Leave with 128 + the signal's number (143 for SIGTERM), which runs every `finally` on the way out.

    A signal that our parent has us ignore (`nohup`) stays ignored.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in ours:  # what comes twice, to a process and to its group, must not stop the cleaning up
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    ours = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
