"""Writing GGUF: every byte's place is known from names, shapes and types before a weight is read."""

import io
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import WriterState

ALIGNMENT = 32
_UNUSED = np.dtype(np.float32)  # the writer looks at it only where no ggml type is given
_LENGTH = struct.Struct("<Q")
_NAME_LIMIT = 63  # GGML_MAX_NAME is 64 with the final zero byte


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """A tensor of a file to be written.

    `shape` is row-major, outermost axis first (the file stores it reversed). `offset` and `size` are bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A whole GGUF file without its weights: the bytes of its header, and where each tensor goes."""

    header: bytes
    tensors: tuple[TensorLayout, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value whose GGUF type is not the one that its Python type suggests; of an array, its elements'."""

    value: Any
    type: GGUFValueType
    element: GGUFValueType | None = None


def lay_out(
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], GGMLQuantizationType]],
) -> FileLayout:
    """Compute the header and every offset of a file that holds these tensors in this order.

    Metadata values are bool, int (UINT32, negative ones INT32), float (FLOAT32), str, lists of one of these (integers
    as INT32), bytes (an array of UINT8), or `Value`.
    Empty lists and strings are left out: the format's other readers stumble over them.

    Raises:
        ValueError: a row does not divide into blocks of its type, or a name is too long: the caller's to avoid.
    """
    writer = _Writer(None, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    data_size = 0
    placed = []
    for name, shape, tensor_type in tensors:
        size = tensor_size(shape, tensor_type)
        if len(name.encode()) > _NAME_LIMIT:
            raise ValueError(f"tensor name of more than {_NAME_LIMIT} bytes: {name}")
        writer.add_tensor_info(name, shape, _UNUSED, size, raw_dtype=tensor_type)
        placed.append(TensorLayout(name, shape, tensor_type, data_size, size))
        data_size += _padded(size)
    header = _serialize(writer)
    start = len(header)
    moved = tuple(TensorLayout(t.name, t.shape, t.type, start + t.offset, t.size) for t in placed)
    return FileLayout(header, moved, start + data_size)


def encoded(value: Value) -> bytes:
    """Give the bytes of a value as they follow its key: its type, of an array also the elements' and their number."""
    writer = _Writer(None, "")
    return writer._pack_val(value.value, value.type, add_vtype=True, sub_type=value.element)  # noqa: SLF001 - a subclass


def tensor_size(shape: tuple[int, ...], tensor_type: GGMLQuantizationType) -> int:
    """Count the bytes of a tensor; ValueError when its rows do not divide into the type's blocks."""
    block, block_bytes = block_size(tensor_type)
    if shape and shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} elements do not divide into blocks of {block} ({tensor_type.name})")
    return math.prod(shape) // block * block_bytes


def block_size(tensor_type: GGMLQuantizationType) -> tuple[int, int]:
    """Give the elements and the bytes of one block of a type; both are those of a single element for plain types."""
    elements, size = GGML_QUANT_SIZES[tensor_type]
    return int(elements), int(size)


class _Writer(GGUFWriter):  # type: ignore[misc]  # the gguf package is not typed
    """Packs a vocabulary in one go, where its parent takes a second for three hundred thousand strings: same bytes."""

    def _pack_val(
        self, val: Any, vtype: GGUFValueType, add_vtype: bool, sub_type: GGUFValueType | None = None
    ) -> bytes:
        if vtype == GGUFValueType.ARRAY and sub_type is None and isinstance(val, bytes) and val:
            kind = struct.pack("<I", vtype) if add_vtype else b""
            return kind + struct.pack("<IQ", GGUFValueType.UINT8, len(val)) + val
        kinds = (
            set(map(type, val)) if vtype == GGUFValueType.ARRAY and sub_type is None and type(val) is list else set()
        )
        if kinds == {str}:
            encoded = [text.encode() for text in val]
            content = b"".join([part for text in encoded for part in (_LENGTH.pack(len(text)), text)])
        elif kinds == {int}:
            content = struct.pack(f"<{len(val)}i", *val)
        elif kinds == {float}:
            content = struct.pack(f"<{len(val)}f", *val)
        else:
            packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
            return packed
        kind = struct.pack("<I", vtype) if add_vtype else b""
        return kind + struct.pack("<IQ", GGUFValueType.get_type(val[0]), len(val)) + content


def _serialize(writer: GGUFWriter) -> bytes:
    buffer = io.BytesIO()
    writer.fout = [buffer]
    writer.state = WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header = buffer.getvalue()
    return header + bytes(_padded(len(header)) - len(header))


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case Value():
            writer.add_key_value(key, value.value, value.type, sub_type=value.element)
        case bool():
            writer.add_bool(key, value)
        case int() if value >= 0:
            writer.add_uint32(key, value)
        case int():
            writer.add_int32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list() | tuple() | bytes():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key}: no GGUF type for {type(value).__name__}")


def _padded(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
