"""A checked reader of GGUF headers: nothing in the file is believed before it was compared with the file's size.

What it accepts is what llama.cpp's own reader (ggml/src/gguf.cpp) accepts, or less. It reads through a small window,
never by memory map, so a file that shrinks meanwhile is an error and not a dead process. Arrays stay in the file until
they are asked for: a vocabulary of 262 thousand tokens costs its offsets, not its strings.
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.metadata import FORMATS, Entry, Metadata, Scalar, Value, ValueType, identity
from ggufkit.gguf_file.tensor_types import TensorType, tensor_type_of
from ggufkit.gguf_file.windowed_file import AGAIN, WindowedFile, opened

__all__ = [
    "DEFAULT_ALIGNMENT",
    "Entry",
    "GgufHeader",
    "Metadata",
    "Scalar",
    "TensorInfo",
    "Value",
    "ValueType",
    "read_header",
    "tensor_bytes",
]

DEFAULT_ALIGNMENT = 32

# Far above any real model, far below what would take seconds or hundreds of megabytes to walk through.
MAX_ARRAY = 64 << 20
MAX_ARRAY_STRINGS = 2 << 20  # in all arrays together
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 17
MAX_NAME = 63  # bytes, GGML_MAX_NAME less its closing zero
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
_MAX_ELEMENTS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file.

    `shape` has GGUF's order: the first axis is the one along a row, contiguous in memory. It is the reverse of the
    order of numpy and torch: a linear layer's (out_features, in_features) is (in_features, out_features) here.
    `offset` counts from the start of the file; `size` is in bytes, without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """The number of weights in it."""
        return _product(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything that a GGUF file says before its weights."""

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int

    @property
    def tensor_bytes(self) -> int:
        """The bytes of all tensors, without padding."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def elements(self) -> int:
        """The number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file (versions 2 and 3, little-endian). Reads no tensor data.

    Raises:
        GgufFileError: it is no regular file, no GGUF file, malformed, or shorter than its tensors; the message names
            the file and the place.
    """
    with opened(path) as file:
        before = os.fstat(file.descriptor)
        header = _read(file, before)
        if identity(os.fstat(file.descriptor)) != identity(before):
            raise GgufFileError(f"{path} is being written: it changed while its header was read")
    return header


@contextlib.contextmanager
def tensor_bytes(header: GgufHeader, tensor: TensorInfo) -> Iterator[memoryview]:
    """Map the bytes of one tensor, read-only, for the length of a `with` block.

    The file must not be truncated meanwhile: the operating system ends a process that reads a mapping of lost bytes.

    Raises:
        GgufFileError: the file has changed its size since the header was read.
    """
    if not tensor.size:
        yield memoryview(b"")
        return
    start = tensor.offset - tensor.offset % mmap.ALLOCATIONGRANULARITY
    with opened(header.path) as file:
        if file.size != header.file_size:
            raise GgufFileError(f"{header.path} has changed since its header was read (at tensor {tensor.name!r})")
        mapping = mmap.mmap(file.descriptor, tensor.offset - start + tensor.size, offset=start, access=mmap.ACCESS_READ)
    whole = memoryview(mapping)
    view = whole[tensor.offset - start :]
    yield view
    # Not after an exception, whose frames may hold arrays over the mapping: it goes with the last of them.
    view.release()
    whole.release()
    mapping.close()


def _read(file: WindowedFile, status: os.stat_result) -> GgufHeader:
    version = _version(file)
    tensor_count = _count(file, "tensors", MAX_TENSORS, least_bytes=25)
    key_count = _count(file, "metadata keys", MAX_KEYS, least_bytes=14)
    scalars: dict[str, Scalar] = {}
    entries: dict[str, Entry] = {}
    strings = 0
    for index in range(key_count):
        key = file.name(f"the name of metadata key {index}", (1 << 16) - 1)
        if key in entries:
            raise file.fail(f"metadata key {key!r} occurs twice")
        entries[key] = entry = _entry(file, key, scalars)
        strings += entry.count if entry.element_kind is ValueType.STRING else 0
        if strings > MAX_ARRAY_STRINGS:
            raise file.fail(f"more than {MAX_ARRAY_STRINGS:,} strings in the metadata")
    alignment = _alignment(file, scalars, entries)
    infos = _tensor_infos(file, tensor_count)
    data_offset = _padded(file.position, alignment) if infos else file.position
    return GgufHeader(
        file.path,
        version,
        alignment,
        Metadata(file.path, identity(status), scalars, entries),
        _placed(file, infos, data_offset, alignment),
        data_offset,
        file.size,
    )


def _version(file: WindowedFile) -> int:
    if file.size == 0:
        raise GgufFileError(f"{file.path} is empty", hint=AGAIN)
    magic = file.take(min(4, file.size), "the first four bytes")
    if magic != b"GGUF":
        raise GgufFileError(
            f"{file.path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'",
            hint="ggufkit convert makes one of a checkpoint folder",
        )
    version = file.integer("I", "the version")
    if version & 0xFFFF == 0:
        raise file.fail("the file is big-endian (or its version is 0), which is not supported")
    if version not in {2, 3}:
        raise file.fail(f"GGUF version {version} is not supported, only 2 and 3")
    return version


def _count(file: WindowedFile, what: str, limit: int, *, least_bytes: int) -> int:
    """Read a number of things; each takes at least so many bytes, so the file's size bounds it."""
    count = file.integer("Q", f"the number of {what}")
    if count > limit or count * least_bytes > file.size:
        raise file.fail(f"{count:,} {what} are announced, more than the file can hold or than the limit of {limit:,}")
    return count


def _kind(file: WindowedFile, what: str) -> ValueType:
    number = file.integer("I", f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise file.fail(f"{what} has the unknown type {number}") from None


def _entry(file: WindowedFile, key: str, scalars: dict[str, Scalar]) -> Entry:
    """Read one value behind its key; a scalar goes into `scalars`, an array is checked and passed over."""
    what = f"the value of {key!r}"
    kind = _kind(file, what)
    if kind is not ValueType.ARRAY:
        start = file.position
        if kind is ValueType.STRING:
            scalars[key] = file.string(what)
        else:
            value = file.unpack(FORMATS[kind], what)[0]
            scalars[key] = value != 0 if kind is ValueType.BOOL else value
        return Entry(kind, None, 1, start, file.position - start)
    element_kind = _kind(file, f"the elements of {key!r}")
    if element_kind is ValueType.ARRAY:
        raise file.fail(f"{what} is an array of arrays, which GGUF readers do not support")
    count = file.integer("Q", f"the length of {key!r}")
    width = 8 if element_kind is ValueType.STRING else struct.calcsize(FORMATS[element_kind])
    if count > MAX_ARRAY or count * width > file.size - file.position:
        raise file.fail(f"{what} announces {count:,} elements, more than the file holds or than {MAX_ARRAY:,}")
    start = file.position
    if element_kind is not ValueType.STRING:
        file.seek(start + count * width)
    elif count > MAX_ARRAY_STRINGS:
        raise file.fail(f"{what} announces {count:,} strings, at most {MAX_ARRAY_STRINGS:,} are allowed")
    else:
        file.skip_strings(count, f"an element of {key!r}")
    return Entry(kind, element_kind, count, start, file.position - start)


def _alignment(file: WindowedFile, scalars: dict[str, Scalar], entries: dict[str, Entry]) -> int:
    key = "general.alignment"
    if key not in entries:
        return DEFAULT_ALIGNMENT
    if entries[key].kind is not ValueType.UINT32:
        raise file.fail(f"{key!r} is of type {entries[key].kind.name}, not UINT32")
    alignment = int(scalars[key])
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise file.fail(f"{key!r} is {alignment}, not a power of two up to {MAX_ALIGNMENT:,}")
    return alignment


def _tensor_infos(file: WindowedFile, count: int) -> list[TensorInfo]:
    """Read the table of tensors; their offsets still count from the start of the data."""
    infos: list[TensorInfo] = []
    seen: set[str] = set()
    for index in range(count):
        name = file.name(f"the name of tensor {index}", MAX_NAME)
        if name in seen:
            raise file.fail(f"tensor {name!r} occurs twice")
        seen.add(name)
        what = f"the shape of tensor {name!r}"
        dimensions = file.integer("I", what)
        if dimensions > MAX_DIMENSIONS:
            raise file.fail(f"tensor {name!r} has {dimensions} dimensions, at most {MAX_DIMENSIONS} are allowed")
        shape = tuple(int(extent) for extent in file.unpack(f"{dimensions}Q", what))
        # Zero extents must not hide the others: any of these times another must stay a number that C can hold.
        if _product(tuple(extent or 1 for extent in shape)) > _MAX_ELEMENTS:
            raise file.fail(f"tensor {name!r} has the impossible shape {shape}")
        number = file.integer("I", f"the type of tensor {name!r}")
        tensor_type = tensor_type_of(number)
        if tensor_type is None:
            raise file.fail(f"tensor {name!r} has the unknown type {number}")
        row = shape[0] if shape else 1
        if row % tensor_type.block_size:
            raise file.fail(
                f"tensor {name!r} has rows of {row:,} elements, not a multiple of {tensor_type.name}'s block"
                f" of {tensor_type.block_size}"
            )
        size = _product(shape) // tensor_type.block_size * tensor_type.block_bytes
        infos.append(TensorInfo(name, shape, tensor_type, file.integer("Q", f"the offset of {name!r}"), size))
    return infos


def _placed(file: WindowedFile, infos: list[TensorInfo], data_offset: int, alignment: int) -> tuple[TensorInfo, ...]:
    """Check that the tensors lie one behind the other, padded, inside the file; make their offsets absolute."""
    placed: list[TensorInfo] = []
    expected = 0
    for info in infos:
        if info.offset != expected:
            raise GgufFileError(
                f"{file.path}: tensor {info.name!r} lies at offset {info.offset:,} of the data, expected {expected:,}"
            )
        end = data_offset + info.offset + info.size
        if end > file.size:
            raise GgufFileError(
                f"{file.path} is incomplete: tensor {info.name!r} ends at byte {end:,}, the file at {file.size:,}",
                hint="download or convert it again",
            )
        placed.append(TensorInfo(info.name, info.shape, info.type, data_offset + info.offset, info.size))
        expected = _padded(info.offset + info.size, alignment)
    return tuple(placed)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result
