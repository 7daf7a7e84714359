"""Signals while C computes and calls back into Python."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_held(stop: Callable[[], None]) -> Iterator[None]:
    """While C runs and calls back into Python, turn signals into `stop`; let their handlers run afterwards.

    A handler that raises inside a callback would be ignored: ctypes cannot pass exceptions through C.
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
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in caught:
            handlers[number](number, None)
