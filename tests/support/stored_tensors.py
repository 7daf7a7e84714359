"""Safetensors with element types that numpy lacks: tensors as (type, shape, bytes), written and read as they are."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "I8": "i1", "U8": "u1"}
Stored = dict[str, tuple[str, tuple[int, ...], bytes]]


def stored(array: np.ndarray, dtype: str | None = None) -> tuple[str, tuple[int, ...], bytes]:
    """Give an array the element type that its bytes are of: what its own type says, or `dtype`."""
    dtype = dtype or next(name for name, kind in _TYPES.items() if np.dtype(kind) == array.dtype)
    return dtype, array.shape, np.ascontiguousarray(array).tobytes()


def bfloat16(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Store float32 values as BF16, cutting off what it does not hold."""
    return stored((values.astype("<f4").view(np.uint32) >> 16).astype("<u2"), "BF16")


def write(path: Path, tensors: Stored) -> None:
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def read(path: Path) -> Stored:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length :]
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


@dataclass(frozen=True)
class InMemory:
    """A stored tensor that lies in no file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def position(self) -> tuple[str, int]:
        return "", 0

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


def in_memory(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> dict[str, InMemory]:
    return {name: InMemory(name, *entry) for name, entry in tensors.items()}


def values(tensor: Any, rows: range | None = None) -> np.ndarray:
    """Read a dequantized tensor's rows as the conversion does, by bytes."""
    shape = tensor.shape if rows is None else (len(rows), *tensor.shape[1:])
    raw = bytearray(4 * math.prod(shape))
    tensor.read_into(memoryview(raw), 0 if rows is None else rows.start * 4 * math.prod(shape[1:]))
    return np.frombuffer(raw, "<f4").reshape(shape)
