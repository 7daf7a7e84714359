"""Builds GGUF files byte by byte, so that a test can put any lie at any place."""

import struct
from collections.abc import Sequence

UINT8, UINT32, FLOAT32, BOOL, STRING, ARRAY = 0, 4, 6, 7, 8, 9
F32, F16, Q4_K = 0, 1, 12


def string(text: str | bytes, length: int | None = None) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content) if length is None else length) + content


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(key: str, kind: int, count: int, content: bytes) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + content)


def tensor(name: str | bytes, shape: Sequence[int], kind: int, offset: int, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def file(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if keys is None else keys,
    )
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


NAME = entry("general.architecture", STRING, string("llama"))
GOOD = file(
    [
        NAME,
        entry("llama.block_count", UINT32, struct.pack("<I", 1)),
        array("tokens", STRING, 2, string("a") + string("é")),
    ],
    [tensor("a.weight", (4, 2), F32, 0), tensor("b.weight", (3,), F16, 32)],
    bytes(range(32)) + bytes(range(6)),
)
