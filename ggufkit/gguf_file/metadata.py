"""The metadata of a GGUF file: scalars in memory, arrays left where they are until they are asked for."""

import contextlib
import enum
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.windowed_file import WindowedFile, opened

_PIECE = 1 << 20

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[bool] | list[int] | list[float] | list[str]


class ValueType(enum.IntEnum):
    """What kind of value a metadata key holds; the numbers are those in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one metadata value lies: `size` bytes at `offset` in the file, behind its key and its kinds."""

    kind: ValueType
    element_kind: ValueType | None  # of an array
    count: int  # 1 for what is not an array
    offset: int
    size: int


class Metadata(Mapping[str, Value]):
    """The key-value part, in the file's order. Scalars are in memory; an array is read anew each time it is asked for.

    Asking for an array raises GgufFileError when the file has changed since its header was read.
    """

    def __init__(
        self, path: Path, identity: tuple[int, ...], scalars: dict[str, Scalar], entries: dict[str, Entry]
    ) -> None:
        self._path = path
        self._identity = identity
        self._scalars = scalars
        self.entries: Mapping[str, Entry] = MappingProxyType(entries)

    def __getitem__(self, key: str) -> Value:
        entry = self.entries[key]
        return self._scalars[key] if entry.kind is not ValueType.ARRAY else self._array(key, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries  # the inherited one would read a whole array

    def is_of(self, status: os.stat_result) -> bool:
        """Whether this is the state of the file that was read."""
        return identity(status) == self._identity

    def pick(self, key: str, indices: Iterable[int]) -> dict[int, str]:
        """Read some strings of an array, without holding the others; indices that it does not have are left out.

        Raises:
            GgufFileError: the file has changed.
        """
        entry = self.entries[key]
        wanted = sorted({index for index in indices if 0 <= index < entry.count})
        found: dict[int, str] = {}
        if entry.element_kind is not ValueType.STRING or not wanted:
            return found
        with self._opened(key, entry) as file:
            following = 0
            for index in wanted:
                file.skip_strings(index - following, f"an element of {key!r}")
                found[index] = file.string(f"an element of {key!r}")
                following = index + 1
        return found

    def raw(self, key: str) -> Iterator[bytes]:
        """Read the bytes of a value as they lie in the file, a piece at a time.

        Raises:
            GgufFileError: the file has changed.
        """
        entry = self.entries[key]
        with self._opened(key, entry) as file:
            for start in range(0, entry.size, _PIECE):
                yield file.take(min(_PIECE, entry.size - start), f"the value of {key!r}")

    @contextlib.contextmanager
    def _opened(self, key: str, entry: Entry) -> Iterator[WindowedFile]:
        with opened(self._path) as file:
            if not self.is_of(os.fstat(file.descriptor)):
                raise GgufFileError(f"{self._path} has changed since its header was read (at key {key!r})")
            file.seek(entry.offset)
            yield file

    def _array(self, key: str, entry: Entry) -> Value:
        with self._opened(key, entry) as file:
            kind = entry.element_kind
            if kind is ValueType.STRING:
                return file.strings(entry.count, f"an element of {key!r}")
            content = file.take(entry.size, f"the array {key!r}")
        values = list(struct.unpack(f"<{entry.count}{FORMATS[kind or ValueType.UINT8]}", content))
        return [value != 0 for value in values] if kind is ValueType.BOOL else values


def identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells that a file is still the one that it was."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
