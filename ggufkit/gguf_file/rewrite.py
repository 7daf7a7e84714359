"""The header of a GGUF file made from another one: the same metadata but for some keys, tensors of new types."""

import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import DEFAULT_ALIGNMENT, GgufHeader, Scalar, ValueType
from ggufkit.gguf_file.tensor_types import TensorType

_VERSION = 3
_FORMATS = {
    ValueType.UINT16: "<H",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
}


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor of the new file: `offset` and `size` are bytes in it; `shape` has the contiguous axis first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """The bytes of a header, padding included, the tensors that follow it, and the size of the whole."""

    header: bytes
    tensors: tuple[PlacedTensor, ...]
    size: int


def rewrite(
    source: GgufHeader,
    *,
    without: Collection[str] = (),
    then: Sequence[tuple[str, ValueType, Scalar]] = (),
    tensors: Sequence[tuple[str, tuple[int, ...], TensorType]],
) -> NewFile:
    """Lay out a file with the metadata of `source`, less the keys in `without`, and these tensors in this order.

    The keys of `then` come last, in their order, whether or not the source has them; of a key that comes twice the
    last counts. So does ggml's `gguf_set_val_*`. Values are copied byte for byte. Tensors are aligned to 32 bytes.

    Raises:
        GgufFileError: the source has changed since its header was read.
    """
    last = {key: (kind, value) for key, kind, value in then}
    order = list(dict.fromkeys(key for key, _, _ in reversed(then)))[::-1]
    kept = [key for key in source.metadata if key not in last and key not in without]
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(kept) + len(order))]
    with source.path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != source.file_size:
            raise GgufFileError(f"{source.path} has changed since its header was read")
        for key in kept:
            entry = source.metadata.entries[key]
            parts.append(_string(key) + struct.pack("<I", entry.kind))
            if entry.element_kind is not None:
                parts.append(struct.pack("<IQ", entry.element_kind, entry.count))
            parts.append(os.pread(file.fileno(), entry.size, entry.offset))
    parts += [_string(key) + struct.pack("<I", last[key][0]) + _value(*last[key]) for key in order]
    offset = 0
    places = []
    for name, shape, tensor_type in tensors:
        places.append(offset)
        parts.append(
            _string(name)
            + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            + struct.pack("<IQ", tensor_type, offset)
        )
        offset += _padded(_size(shape, tensor_type))
    header = b"".join(parts)
    header += bytes(_padded(len(header)) - len(header))
    placed = tuple(
        PlacedTensor(name, shape, tensor_type, len(header) + place, _size(shape, tensor_type))
        for (name, shape, tensor_type), place in zip(tensors, places, strict=True)
    )
    return NewFile(header, placed, len(header) + offset)


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(kind: ValueType, value: Scalar) -> bytes:
    return _string(str(value)) if kind is ValueType.STRING else struct.pack(_FORMATS[kind], value)


def _size(shape: tuple[int, ...], tensor_type: TensorType) -> int:
    elements = 1
    for extent in shape:
        elements *= extent
    return elements // tensor_type.block_size * tensor_type.block_bytes


def _padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
