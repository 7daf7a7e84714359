"""How long work tells how far it is: a callback that the command line draws as a bar."""

from typing import Literal, Protocol


class Progress(Protocol):
    """Called from the thread that does the work; must return quickly.

    `stage` is a short present participle for people ("Converting"), `done` and `total` count `unit`s.
    `total` is 0 when it is not known yet. The last call of a stage has `done == total`.
    """

    def __call__(self, stage: str, done: int, total: int, unit: Literal["bytes", "steps"] = "bytes") -> None:
        """Report progress."""


def silent(stage: str, done: int, total: int, unit: Literal["bytes", "steps"] = "bytes") -> None:
    """Report to nobody: the default of every function that takes a `progress`."""
