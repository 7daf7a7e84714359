"""Notes of which pieces of an output are written, so that an interrupted run can go on; each is checked before use.

A line is appended when a piece has been written: the tensor, the place of its rows in the source's tensor, where and
how long it is in the output, and a CRC-32 of those bytes. Nothing of it is flushed to the disk, and nothing has to be:
after a power cut a piece counts only if the bytes in the file still have the sum that the journal says.
"""

import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMAT = 1


class Journal:
    """The notes beside one partial output. Several threads may write them."""

    def __init__(self, path: Path, partial: Path, recipe: str) -> None:
        """Take up the journal at `path` if it belongs to this `recipe`, else begin a new one."""
        self._done = set(_reliable(path, partial, recipe))
        known = bool(self._done)
        self._descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if known else os.O_TRUNC), 0o600
        )
        self._lock = threading.Lock()
        self.resumed = known
        if known:
            self._append("")  # ends a line that a dying process may have left in the middle
        else:
            self._append(json.dumps({"format": _FORMAT, "recipe": recipe}))

    def has(self, tensor: str, place: int) -> bool:
        """Whether the piece of a tensor that begins at this place of the source is in the output."""
        return (tensor, place) in self._done

    def add(self, tensor: str, place: int, written: list[tuple[int, NDArray[Any]]]) -> None:
        """Note a piece, when all of it is written: the offsets in the output, and the bytes that are there."""
        sums = [(offset, data.nbytes, zlib.crc32(memoryview(data.data).cast("B"))) for offset, data in written]
        self._append(json.dumps([tensor, place, sums], ensure_ascii=False, separators=(",", ":")))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, line: str) -> None:
        with self._lock:
            os.write(self._descriptor, line.encode() + b"\n")


def _reliable(path: Path, partial: Path, recipe: str) -> Iterator[tuple[str, int]]:
    """Yield the pieces of a former run that are whole in the partial file. A journal that is odd says nothing."""
    try:
        lines = path.read_bytes().split(b"\n")
        if json.loads(lines[0]) != {"format": _FORMAT, "recipe": recipe}:
            return
        with partial.open("rb", buffering=0) as file:
            for line in lines[1:]:
                if line and (piece := _piece(line)) and all(_is_there(file.fileno(), *part) for part in piece[2]):
                    yield piece[0], piece[1]
    except (OSError, ValueError, RecursionError):
        return


def _piece(line: bytes) -> tuple[str, int, list[tuple[int, int, int]]] | None:
    """Read a line; None for the one in whose middle a process died."""
    try:
        tensor, place, sums = json.loads(line)
        return str(tensor), int(place), [(int(offset), int(size), int(crc)) for offset, size, crc in sums]
    except (ValueError, RecursionError, TypeError):
        return None


def _is_there(descriptor: int, offset: int, size: int, crc: int) -> bool:
    target = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = os.preadv(descriptor, [memoryview(target.data)[done:]], offset + done)
        if not count:
            return False
        done += count
    return zlib.crc32(target.data) == crc
