"""A copy of a GGUF file with other metadata: its tensors, their table and all else stay as they are."""

import errno
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufFileError
from ggufkit.files import atomic_output
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.gguf_file.writer import Value, encoded
from ggufkit.progress import Progress, silent

_COUNTS = struct.Struct("<4sIQQ")
_PIECE = 8 << 20
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


def write_edited(
    source: GgufHeader,
    output: Path,
    *,
    values: Mapping[str, Value],
    without: Collection[str] = (),
    progress: Progress = silent,
) -> int:
    """Write a copy with these values set and those keys gone; return its size in bytes.

    A key keeps its place; new ones come last. The kernel copies the tensors where it can, which shares their blocks on
    file systems that do that. Nothing stands under the name of the output until the copy was read again and found to
    hold the same tensors.

    Raises:
        GgufFileError: the source has changed since its header was read.
        OutputError: the output cannot be written.
    """
    kept = [key for key in source.metadata if key not in without and key not in values]
    new = [key for key in values if key not in source.metadata]
    start, end = _table(source)
    data = source.file_size - source.data_offset if source.tensors else 0
    with atomic_output(output, size=source.file_size) as temporary:
        with temporary.open("wb") as target, source.path.open("rb") as original:
            _check(source, original.fileno())
            count = len(kept) + len(values)
            target.write(_COUNTS.pack(b"GGUF", source.version, len(source.tensors), count))
            for key in [key for key in source.metadata if key not in without] + new:
                target.writelines([_name(key), encoded(values[key])] if key in values else _entry(source, key))
            original.seek(start)
            target.write(original.read(end - start))
            if source.tensors:
                target.write(bytes(-target.tell() % source.alignment))
            target.flush()
            _copy(original.fileno(), source.data_offset, target.fileno(), target.tell(), data, progress)
            _check(source, original.fileno())
        _compare(source, read_header(temporary))
        return temporary.stat().st_size


def _table(source: GgufHeader) -> tuple[int, int]:
    """Say where the table of tensors lies: behind the last value, up to its own end (before the padding)."""
    entries = source.metadata.entries.values()
    start = max((entry.offset + entry.size for entry in entries), default=_COUNTS.size)
    size = sum(len(tensor.name.encode()) + 8 + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in source.tensors)
    return start, start + size


def _entry(source: GgufHeader, key: str) -> Iterator[bytes]:
    entry = source.metadata.entries[key]
    yield _name(key) + struct.pack("<I", entry.kind)
    if entry.element_kind is not None:
        yield struct.pack("<IQ", entry.element_kind, entry.count)
    yield from source.metadata.raw(key)


def _name(key: str) -> bytes:
    content = key.encode()
    return struct.pack("<Q", len(content)) + content


def _copy(source: int, start: int, target: int, place: int, size: int, progress: Progress) -> None:
    done = 0
    by_kernel = hasattr(os, "copy_file_range")
    while done < size:
        progress("Copying", done, size)
        wanted = min(_PIECE, size - done)
        if by_kernel:
            try:
                copied = os.copy_file_range(source, target, wanted, start + done, place + done)
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
                by_kernel = False
                continue
        else:
            copied = os.pwrite(target, os.pread(source, wanted, start + done), place + done)
        if copied == 0:
            return  # it became shorter: the check that follows says so
        done += copied
    progress("Copying", size, size)


def _check(source: GgufHeader, descriptor: int) -> None:
    if not source.metadata.is_of(os.fstat(descriptor)):
        raise GgufFileError(f"{source.path} has changed while it was copied", hint="wait until it is written")


def _compare(source: GgufHeader, copy: GgufHeader) -> None:
    def table(header: GgufHeader) -> list[tuple[Any, ...]]:
        return [(t.name, t.shape, t.type, t.offset - header.data_offset) for t in header.tensors]

    if table(copy) != table(source):
        raise GgufFileError(f"{source.path} could not be copied: the table of tensors came out differently")
