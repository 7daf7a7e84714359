"""A few moments in which no signal may raise: while Python forks, while a lock is taken, while files get their names.

Around a fork Python runs hooks, such as logging's, which takes a lock before it and gives it back behind it. What the
handler of a signal raises within a hook is lost, and the lock is kept: the next thread that forks waits for ever.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the signals that Python handles come when the block is done.

    Handlers run in the main thread only, so elsewhere there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    with contextlib.ExitStack() as stack:
        for number in map(int, _INTERRUPTING):
            handler = signal.getsignal(number)
            if callable(handler):  # neither ignored nor deadly
                stack.callback(signal.signal, number, handler)
                signal.signal(number, note)
        yield
    for number in came:
        signal.raise_signal(number)
