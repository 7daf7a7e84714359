"""Keeping a server program alive: started again when it dies, after longer and longer pauses, but not for ever."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.child import Child

_SECONDS_BETWEEN_LOOKS = 0.05


class State(Enum):
    """What the program is doing."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a program may die.

    Attributes:
        restarts: how many times in a row it is started again.
        first_pause: seconds before the first of these; each further pause is twice as long.
        longest_pause: seconds.
        calm: seconds of work after which earlier deaths are forgotten.
    """

    restarts: int = 5
    first_pause: float = 0.25
    longest_pause: float = 10.0
    calm: float = 300.0


class Supervisor:
    """Runs one program after another. `run` ends by an error, or by being cancelled, and leaves no process behind."""

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Child],
        is_ready: Callable[[], Awaitable[bool]],
        *,
        patience: Patience | None = None,
        on_state: Callable[[State, str], None] = lambda _state, _text: None,
        before_restart: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Describe the program.

        Args:
            start: starts it; what it is given must be called, from any thread, when the program has ended.
            is_ready: whether it answers; asked often.
            patience: how often it may die.
            on_state: told of each new state, with a sentence for people (empty where there is nothing to say).
            before_restart: may raise to say that starting again makes no sense yet; this counts as a death.
        """
        self.state = State.LOADING
        self.restarts = 0
        self.child: Child | None = None
        self._start, self._is_ready = start, is_ready
        self._patience = patience or Patience()
        self._on_state, self._before_restart = on_state, before_restart

    async def run(self) -> None:
        """Keep it running.

        Raises:
            LlamaCppError: it ended before it was ready for the first time, or died too often.
        """
        deaths, was_ready = 0, False
        try:
            while True:
                started = time.monotonic()
                reason = await self._live(State.RESTARTING if was_ready else State.LOADING, restarted=was_ready)
                was_ready = was_ready or self.state is State.READY
                if not was_ready:
                    raise LlamaCppError(reason)
                deaths = 1 if time.monotonic() - started > self._patience.calm else deaths + 1
                if deaths > self._patience.restarts:
                    raise LlamaCppError(f"{reason}; that was the {deaths}th time in a row, so it is not started again")
                pause = min(self._patience.first_pause * 2 ** (deaths - 1), self._patience.longest_pause)
                self._enter(State.RESTARTING, f"{reason}; starting it again in {pause:g} s")
                await asyncio.sleep(pause)
                self.restarts += 1
        finally:
            self.state = State.STOPPED
            await self._end_child()

    async def _live(self, state: State, *, restarted: bool) -> str:
        """Start the program and watch it until it ends; return how it did."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def on_end() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        self._enter(state, "")
        if restarted and self._before_restart:
            try:
                await self._before_restart()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and tried again
                return str(error)
        self.child = self._start(on_end)
        watch = asyncio.ensure_future(ended.wait())
        try:
            while not ended.is_set() and not await self._is_ready():
                await asyncio.wait({watch}, timeout=_SECONDS_BETWEEN_LOOKS)
            if not ended.is_set():
                self._enter(State.READY, "")
                await watch
        finally:
            watch.cancel()
        return self.child.describe_end()

    async def _end_child(self) -> None:
        if self.child is not None:
            await asyncio.shield(asyncio.to_thread(self.child.end))

    def _enter(self, state: State, text: str) -> None:
        self.state = state
        self._on_state(state, text)
