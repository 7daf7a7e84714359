"""Threads that take piece after piece from one list until it is empty, or one of them fails.

Pieces must not depend on each other. Native calls release the interpreter's lock, so the threads run side by side.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

Piece = TypeVar("Piece")

_SECONDS_BETWEEN_REPORTS = 0.1


def work_through(
    pieces: Iterable[Piece],
    work: Callable[[Piece], int],
    *,
    threads: int,
    report: Callable[[int], None],
) -> None:
    """Do `work` on every piece, in `threads` threads; it returns how much it did.

    `report` is called by the calling thread, now and then and at the end, with the sum of what was done. The first
    exception, of a worker or of the caller (Ctrl-C), ends the work and is raised when all threads have come to rest.
    """
    crew = _Crew(pieces, work)
    workers = [threading.Thread(target=crew.run, daemon=True) for _ in range(threads)]
    report(0)
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            while worker.is_alive():
                worker.join(_SECONDS_BETWEEN_REPORTS)
                report(crew.done)
    except BaseException:
        crew.stop = True
        for worker in workers:
            # None may go on with files that the caller closes, however often one presses Ctrl-C.
            while worker.is_alive():
                with contextlib.suppress(KeyboardInterrupt, SystemExit):
                    worker.join()
        raise
    if crew.failure:
        raise crew.failure


class _Crew:
    """What the threads share."""

    def __init__(self, pieces: Iterable[Piece], work: Callable[[Piece], int]) -> None:
        self._pieces = iter(pieces)
        self._work = work
        self._lock = threading.Lock()
        self.done = 0
        self.failure: BaseException | None = None
        self.stop = False

    def run(self) -> None:
        """Work in one thread."""
        try:
            while not self.stop:
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                amount = self._work(piece)
                with self._lock:
                    self.done += amount
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.failure = self.failure or error
            self.stop = True
