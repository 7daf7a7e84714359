"""The older format of importance matrices, which has no mark of its own: entries, then where they come from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.windowed_file import WindowedFile, opened

Entries = Mapping[str, tuple[int, NDArray[np.float32]]]


def read_legacy(path: Path) -> tuple[Entries, int, tuple[str, ...]]:
    """Read a file whose form `imatrix.coverage` has seen to.

    Returns, for each tensor, the number of calls and float32 [columns * experts] of sums; the number of chunks; and
    the names of the texts.

    Raises:
        GgufFileError: it ends too early.
    """
    entries = {}
    with opened(path) as file:
        for _ in range(file.integer("i", "the number of entries")):
            name = file.take(file.integer("i", "the length of a name"), "a name").decode("utf-8", "replace")
            calls = file.integer("i", "the number of calls")
            count = file.integer("i", "the number of values")
            entries[name] = (calls, np.frombuffer(file.take(4 * count, f"the values of {name!r}"), "<f4"))
        chunks, datasets = _origin(file)
    return entries, chunks, datasets


def _origin(file: WindowedFile) -> tuple[int, tuple[str, ...]]:
    """Read the number of chunks and the name of the text, which the oldest files lack."""
    if file.size - file.position < 8:
        return 0, ()
    chunks = file.integer("i", "the number of chunks")
    length = file.integer("i", "the length of the text's name")
    if not 0 < length <= file.size - file.position:
        return chunks, ()
    return chunks, (file.take(length, "the text's name").decode("utf-8", "replace").split("\0")[0],)
