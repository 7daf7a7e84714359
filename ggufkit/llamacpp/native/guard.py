"""Surviving llama.cpp's `abort`: with other machines involved, one that leaves would end our process.

ggml calls a function of ours just before it aborts, in whatever thread it is. That thread is then held for ever, so
the abort never comes. For our own thread not to be held with it, every call into llama.cpp is made by a thread of the
guard, which costs some 50 microseconds a call; the caller waits for its answer, or for the news that none will come.
What llama.cpp held is lost: it must not be called again.
"""

import contextlib
import ctypes
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import rpc
from ggufkit.llamacpp.native.library import ggml

_REMOTE = "Remote RPC server"  # how ggml-rpc.cpp begins when a connection breaks


class Guard:
    """Stands in for the module of llama.cpp's functions; after an abort each call raises, but for those that free."""

    def __init__(self, module: Any, workers: Sequence[rpc.Endpoint]) -> None:
        self._module = module
        self._workers = tuple(workers)
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], _Answer]] = queue.SimpleQueue()
        self._wrapped: dict[str, Any] = {}
        self._lost: str | None = None
        threading.Thread(target=self._work, name="llama.cpp", daemon=True).start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of ours that calls llama.cpp. Raises LlamaCppError, and what the function raises."""
        return self._function("", function)(*arguments)

    def __getattr__(self, name: str) -> Any:
        """Return a function that calls llama.cpp's from the guard's thread; types and constants as they are."""
        try:
            return self._wrapped[name]
        except KeyError:
            member = getattr(self._module, name)
            is_function = callable(member) and not isinstance(member, type)
            self._wrapped[name] = self._function(name, member) if is_function else member
            return self._wrapped[name]

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        frees = name.endswith("_free")

        def call(*arguments: Any) -> Any:
            if _aborted.message is not None:
                if frees:
                    return None
                raise self._failure()
            answer = _Answer()
            self._calls.put((function, arguments, answer))
            with _aborted.told(answer):
                answer.done.wait()
            if answer.error is not None:
                raise answer.error
            if not answer.came:
                raise self._failure()
            return answer.value

        return call

    def _work(self) -> None:
        _aborted.guards.add(threading.get_ident())
        while True:
            function, arguments, answer = self._calls.get()
            try:
                answer.value = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
                answer.error = error
            answer.came = True
            answer.done.set()
            del function, arguments, answer

    def notice_silence(self) -> None:
        """Have connections fail when a worker's machine is cut off, not only when it ends them."""
        for worker in self._workers:
            rpc.keep_alive(worker)

    def _failure(self) -> LlamaCppError:
        message = _aborted.message or ""
        if _REMOTE not in message:
            return LlamaCppError(f"llama.cpp gave up: {message}")
        if self._lost is None:
            lost = [worker for worker in self._workers if not rpc.is_connected(worker)]
            self._lost = rpc.blame(lost or self._workers)
        return LlamaCppError(
            f"{self._lost}, and with it what it held of the model and of the conversation",
            hint=f"ggufkit worker --list {','.join(map(str, self._workers))} shows which workers are there",
        )


class _Answer:
    """What a call came to."""

    __slots__ = ("came", "done", "error", "value")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.came = False
        self.value: Any = None
        self.error: BaseException | None = None


class _Aborted:
    """Whether ggml has wanted to abort, and who waits for calls that will not return."""

    def __init__(self) -> None:
        self.message: str | None = None
        self.guards: set[int] = set()
        self._waiting: set[_Answer] = set()

    @contextlib.contextmanager
    def told(self, answer: _Answer) -> Iterator[None]:
        """Have `answer` marked as done when none will come."""
        self._waiting.add(answer)
        if self.message is not None:
            answer.done.set()
        try:
            yield
        finally:
            self._waiting.discard(answer)

    def hold(self, message: bytes | None) -> None:
        """Tell those who wait, and never return: called by ggml before it aborts, which it does when this returns."""
        text = (message or b"").decode("utf-8", "replace").strip()
        if _REMOTE not in text and threading.get_ident() not in self.guards:
            print(text, file=sys.stderr)  # noqa: T201 - what ggml would have done; the process ends now
            return
        self.message = text
        for answer in tuple(self._waiting):
            answer.done.set()
        threading.Event().wait()


_aborted = _Aborted()
_installed: list[Any] = []


def guarded(module: Any, workers: Sequence[str]) -> Any:
    """Return a stand-in for `module` whose calls survive the loss of `workers` (`host:port`).

    Raises:
        WorkerError: one of them cannot be used now.
    """
    if not _installed:
        callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_aborted.hold)
        ggml().ggml_set_abort_callback(ctypes.cast(callback, ctypes.c_void_p))
        _installed.append(callback)
    endpoints = rpc.endpoints(workers)
    rpc.check(endpoints)
    return Guard(module, endpoints)
