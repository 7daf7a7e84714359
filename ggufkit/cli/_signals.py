"""Signals that end us become an orderly end: temporary files go, child processes die, and the exit code says why."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_MOMENT = 0.01  # seconds


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Leave with 128 + the signal's number (143 for SIGTERM), which runs every `finally` on the way out.

    A signal that our parent has us ignore (`nohup`) stays ignored. One that comes while Python runs what may not raise
    (the end of an object, a callback of an import) comes again a moment later. Behind the block nothing is left to put
    in order, and signals end the process at once: while Python itself ends, what they raise would be a traceback.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in ours:  # what comes twice, to a process and to its group, must not stop the cleaning up
            signal.signal(each, signal.SIG_IGN)
        left.append(number)
        sys.exit(128 + number)

    def come_again(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = int(signal.SIGINT)
        elif isinstance(lost.exc_value, SystemExit) and left:
            number = left.pop()
            for each in ours:
                signal.signal(each, leave)
        else:
            before(lost)
            return
        import threading

        # Not from here: what is raised in this function would be lost as well.
        again = threading.Timer(_MOMENT, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    left: list[int] = []
    before, sys.unraisablehook = sys.unraisablehook, come_again
    ours = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
