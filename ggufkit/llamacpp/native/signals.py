"""Signals while C computes: noticed at once, handled when C has returned."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_held(stop: Callable[[], None]) -> Iterator[None]:
    """While C runs, turn signals into `stop`; let their handlers run afterwards.

    Python runs handlers in the main thread alone, which is busy in C: a thread is told by the C part of Python's
    handlers and calls `stop`. Where C calls back into Python, a handler that raises would be ignored, for ctypes cannot
    pass exceptions through C: so they are put off in any case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, Any], Any]] = {}
    caught: list[int] = []

    def hold(number: int, _: Any) -> None:
        caught.append(number)
        stop()

    for name in _STOP_SIGNALS:
        handler = signal.getsignal(name)
        if callable(handler):
            handlers[name] = handler
            signal.signal(name, hold)
    watcher = _watcher(os.getpid()) if handlers else None
    try:
        with watcher.watching(handlers.keys(), stop) if watcher else contextlib.nullcontext():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in caught:
            handlers[number](number, None)


class _Watcher:
    """A thread that hears of signals through a pipe, into which Python's C handler writes their numbers."""

    def __init__(self) -> None:
        self._end, self._entry = os.pipe()
        os.set_blocking(self._entry, False)
        self._asked: tuple[frozenset[int], Callable[[], None], int] | None = None
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, numbers: Iterable[int], stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` from the thread when one of these signals comes."""
        before = signal.set_wakeup_fd(self._entry, warn_on_full_buffer=False)
        self._asked = (frozenset(numbers), stop, before)
        try:
            yield
        finally:
            self._asked = None
            signal.set_wakeup_fd(before)

    def _listen(self) -> None:
        while True:
            numbers = os.read(self._end, 64)
            if (asked := self._asked) is None:
                continue
            wanted, stop, before = asked
            if not wanted.isdisjoint(numbers):
                stop()
            if before != -1:
                with contextlib.suppress(OSError):  # whoever listened before us: an event loop
                    os.write(before, numbers)


@functools.lru_cache(maxsize=1)
def _watcher(_process: int) -> _Watcher:
    """Return the watcher of this process: a fork takes no threads along."""
    return _Watcher()
