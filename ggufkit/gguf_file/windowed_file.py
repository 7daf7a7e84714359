"""Sequential reads of an untrusted file through a small window, each checked against the file's size beforehand."""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from ggufkit.errors import GgufFileError

MAX_STRING = 16 << 20
AGAIN = "it is damaged or was cut short: download it, or make it, again"
_WINDOW = 1 << 16


class WindowedFile:
    """Sequential reads through a window, each checked against the size of the file first."""

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        self.descriptor = descriptor
        self.path = path
        self.size = size
        self._buffer = b""
        self._start = 0  # of the buffer in the file
        self._next = 0  # in the buffer

    @property
    def position(self) -> int:
        """The place in the file of the next byte to be taken."""
        return self._start + self._next

    def fail(self, message: str) -> GgufFileError:
        """Make the error that says what is wrong in which file, and where."""
        return GgufFileError(f"{self.path}: {message} (near byte {self.position:,})", hint=AGAIN)

    def seek(self, position: int) -> None:
        """Go on elsewhere; a step inside the window costs nothing, so many small ones are cheap."""
        if self._start <= position <= self._start + len(self._buffer):
            self._next = position - self._start
        else:
            self._buffer, self._start, self._next = b"", position, 0

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes."""
        if count > self.size - self.position:
            raise self.fail(f"the file ends inside {what}, which needs {count:,} more bytes")
        if self._next + count > len(self._buffer):
            self._fill(count)
        self._next += count
        return self._buffer[self._next - count : self._next]

    def unpack(self, form: str, what: str) -> tuple[int | float, ...]:
        """Take little-endian numbers; `form` is what the struct module calls a format."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def integer(self, form: str, what: str) -> int:
        """Take one little-endian integer."""
        return int(self.unpack(form, what)[0])

    def string(self, what: str, limit: int = MAX_STRING) -> str:
        """Take a string: its length in eight bytes, then UTF-8."""
        length = self.integer("Q", f"the length of {what}")
        if length > limit:
            raise self.fail(f"{what} is {length:,} bytes long, at most {limit:,} are allowed")
        return self._decode(self.take(length, what), what)

    def name(self, what: str, limit: int) -> str:
        """Read a key or a tensor's name: text that is not empty and cannot move a cursor or forge a line."""
        name = self.string(what, limit)
        if not name or not name.isprintable():
            raise self.fail(f"{what} is {'not printable: ' + ascii(name) if name else 'empty'}")
        return name

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over an array of strings, checking each: the one loop here that is long, so it is written flat.

        Short strings are checked together with the lengths between them: the bytes of a length below 128 are ASCII, so
        the whole is UTF-8 if and only if each string is.
        """
        length_of = struct.Struct("<Q").unpack_from
        buffer, position = self._buffer, self._next
        begin, last = position, len(buffer) - 8
        for _ in range(count):
            if position <= last:
                length = length_of(buffer, position)[0]
                if length < 128 and position + length <= last:
                    position += 8 + length
                    continue
            # It is long, crosses the end of the window, or lies: the careful way, and perhaps a new window.
            self._check_together(buffer, begin, position, what)
            self._next = position
            self.string(what)
            buffer, position = self._buffer, self._next
            begin, last = position, len(buffer) - 8
        self._check_together(buffer, begin, position, what)
        self._next = position

    def strings(self, count: int, what: str) -> list[str]:
        """Take an array of strings; a loop as flat as that of `skip_strings`, for vocabularies are long."""
        length_of = struct.Struct("<Q").unpack_from
        found: list[str] = []
        buffer, position = self._buffer, self._next
        last = len(buffer) - 8
        for _ in range(count):
            if position <= last:
                length = length_of(buffer, position)[0]
                end = position + 8 + length
                if length <= MAX_STRING and end <= last + 8:
                    try:
                        found.append(str(buffer[position + 8 : end], "utf-8"))
                    except UnicodeDecodeError:
                        self._next = position
                        found.append(self.string(what))  # it fails, and says where
                    position = end
                    continue
            self._next = position
            found.append(self.string(what))
            buffer, position = self._buffer, self._next
            last = len(buffer) - 8
        self._next = position
        return found

    def _check_together(self, buffer: bytes, begin: int, end: int, what: str) -> None:
        """Check strings and their lengths; where something is wrong, one by one, to tell the place."""
        try:
            str(buffer[begin:end], "utf-8")
        except UnicodeDecodeError:
            self._next = begin
            while self._next < end:
                self.string(what)

    def _decode(self, content: bytes, what: str) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not valid UTF-8") from None

    def _fill(self, count: int) -> None:
        position = self.position
        wanted = min(max(count, _WINDOW), self.size - position)
        pieces: list[bytes] = []
        while wanted > 0 and (piece := os.pread(self.descriptor, wanted, position + sum(map(len, pieces)))):
            pieces.append(piece)
            wanted -= len(piece)
        self._buffer, self._start, self._next = b"".join(pieces), position, 0
        if len(self._buffer) < count:
            raise self.fail("the file became shorter while it was read")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[WindowedFile]:
    """Open a regular file. O_NONBLOCK, because opening a named pipe waits for a writer that may never come.

    Raises:
        GgufFileError: there is no such file, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise GgufFileError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise GgufFileError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                hint = f"ggufkit convert {path} makes a GGUF file of a checkpoint folder"
                raise GgufFileError(f"{path} is a folder, not a GGUF file", hint=hint)
            raise GgufFileError(f"{path} is not a regular file", hint="copy it to one")
        yield WindowedFile(descriptor, path, status.st_size)
    except OSError as error:
        raise GgufFileError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
