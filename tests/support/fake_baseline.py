"""A baseline without any library but NumPy: the next token depends on the last one only, by a table from a seed.

It is copied beside the adapters as `fake.py`, and runs in the child like one of them; tests compute the same table.
"""

import os
import signal
from pathlib import Path
from typing import Any

SEED = 7


def table(size: int) -> Any:
    """Return the logits after each token, float32 [size, size]."""
    import numpy as np

    return np.random.default_rng(SEED).normal(0, 3, (size, size)).astype(np.float32)


class Table:
    """The model."""

    def __init__(self, size: int, dies_after: int | None = None) -> None:
        self._table = table(size)
        self._left = dies_after

    def logits(self, tokens: Any, first: int) -> Any:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left = None if self._left is None else self._left - 1
        return self._table[list(tokens)[first:]]

    def generate(self, tokens: Any, most: int, stops: Any) -> Any:
        last = tokens[-1]
        for _ in range(most):
            last = int(self._table[last].argmax())
            if last in stops:
                return
            yield last

    def weight_bytes(self) -> int:
        return int(self._table.nbytes)


def prepare(job: Any) -> None:
    """Leave a file for `load`."""
    Path(job.work, "prepared.bin").write_bytes(b"x" * 1000)


def load(job: Any) -> Table:
    """Do what the variant says."""
    from .adapter import CannotRunError

    size = job.vocabulary_size
    if job.variant == "cannot":
        raise CannotRunError("no such processor")
    if job.variant == "raises":
        raise ValueError("the first line\nand a second one")
    if job.variant == "imports":
        import no_such_package  # noqa: F401
    if job.variant == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.variant == "exits":
        os._exit(9)
    if job.variant == "prepared":
        Path(job.work, "prepared.bin").read_bytes()
    if job.variant == "small":
        return Table(size - 1)
    if job.variant == "dies":  # once, with the fourth chunk
        marker = Path(job.checkpoint, "marks", "died")
        if not marker.exists():
            marker.touch()
            return Table(size, dies_after=3)
    if job.variant == "hangs":
        Path(job.checkpoint, "marks", "pid").write_text(str(os.getpid()))
        signal.pause()
    return Table(size)
