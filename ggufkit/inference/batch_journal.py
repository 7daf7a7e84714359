"""The lines of a file of prompts, and a journal of their answers that survives the run."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ggufkit.errors import InputError, UsageError

_FORMAT = 1


class Lines:
    """The lines of an open file that are not blank; read when they are wanted."""

    def __init__(self, file: BinaryIO, places: list[tuple[int, int, int]]) -> None:
        self._file = file
        self._places = places  # number of the line, from 1; where it begins; its length

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> bytes:
        _, start, size = self._places[index]
        return os.pread(self._file.fileno(), size, start).strip()

    def number(self, index: int) -> int:
        """Return the number of a line in the file, from 1."""
        return self._places[index][0]


def read_lines(source: Path) -> Lines:
    """Find the lines of a file that are not blank; of a pipe they go to a temporary file, which has no name.

    Raises:
        InputError: it cannot be read, or all are.
    """
    places, start = [], 0
    try:
        file: BinaryIO = source.open("rb")
        if not file.seekable():
            with file as pipe:
                file = tempfile.TemporaryFile()  # noqa: SIM115 - `Lines` reads it as long as it lives
                shutil.copyfileobj(pipe, file)
            file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                places.append((number, start, len(line)))
            start += len(line)
        if not places:
            file.close()
            raise InputError(f"{source} holds no prompts: it is empty")
        return Lines(file, places)
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error


class Journal:
    """The answers that are there, in the order in which they came; `offsets` says where those of which lines are."""

    def __init__(self, path: Path, identity: str, lines: Lines, *, again: bool) -> None:
        """Open or begin a journal; what a run with the same `identity` left in it counts unless `again`.

        Raises:
            UsageError: it holds answers of a run with another identity.
        """
        self._lines = lines
        self.offsets: dict[int, tuple[int, int]] = {}
        self.resumed_bad: dict[int, str] = {}  # lines that the earlier run found bad, and why
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        end = 0 if again else self._resume(path, identity)
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._file.write(json.dumps({"format": _FORMAT, "for": identity}).encode() + b"\n")
            self._file.flush()

    def add(self, index: int, answer: Mapping[str, Any]) -> None:
        """Note an answer down."""
        try:
            text = json.dumps(answer, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair in what comes back: JSON can escape it
            text = json.dumps(answer).encode()
        start = self._file.tell()
        self._file.write(b"%d %s %s\n" % (index, _digest(self._lines[index]), text))
        self._file.flush()  # after that only a crash of the machine can lose it
        self.offsets[index] = (start, self._file.tell() - start)

    def read(self, index: int) -> bytes:
        """Return an answer as a line for the output."""
        start, size = self.offsets[index]
        return os.pread(self._file.fileno(), size, start).split(b" ", 2)[2]

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def _resume(self, path: Path, identity: str) -> int:
        """Find the answers that are there already; return where the last whole one ends."""
        head = self._file.readline()
        if not head.endswith(b"\n"):
            return 0
        try:
            told = json.loads(head)
        except (ValueError, RecursionError):
            return 0
        if told != {"format": _FORMAT, "for": identity}:
            raise UsageError(
                f"an interrupted run with another model or other options left answers in {path}",
                hint="finish it with the same command, or forget them with --again",
            )
        end = len(head)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                index, digest, text = line.split(b" ", 2)
                number, answer = int(index), json.loads(text)
                if not isinstance(answer, dict):
                    break
            except (ValueError, RecursionError):
                break  # damaged: what follows is answered once more
            if 0 <= number < len(self._lines) and _digest(self._lines[number]) == digest:
                if "error" in answer:
                    self.resumed_bad[number] = str(answer["error"])
                self.offsets[number] = (end, len(line))
            end += len(line)
        return end


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode()
