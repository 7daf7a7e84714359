"""Commands that go on until somebody stops them: a signal becomes an event, and a second one ends all at once."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

_INTERRUPTED = 130


def run(work: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `work` until it ends by itself; the event that it gets is set at the first SIGTERM, SIGHUP or Ctrl-C.

    Returns the exit code: 130 after Ctrl-C, 0 after the others, for that is how services are ended.
    """
    received: list[signal.Signals] = []

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        working = asyncio.ensure_future(work(stop))

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            stop.set()
            if len(received) > 1:
                working.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants SIGHUP to be
                loop.add_signal_handler(number, on_signal, number)
        try:
            await working
        except asyncio.CancelledError:
            if len(received) < 2:
                raise

    asyncio.run(main())
    return _INTERRUPTED if signal.SIGINT in received else 0
