"""Safetensors files with one or a few faults, made from good ones: of their structure, or of single bytes."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Header = dict[str, Any]

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8}
LENGTHS = (0, 1, 2, 7, 1 << 31, 1 << 63, (1 << 64) - 1, 100_000_000, 100_000_001)
NUMBERS = ("-1", "-0", "0", "1", "2.0", "1e0", "1e400", "NaN", "Infinity", "true", "null", '"2"', "[]", "{}")
NUMBERS += (str(2**31), str(2**62), str(2**63), str(2**64 - 1), str(2**64), "1" + "0" * 400, "1" + "0" * 5000)
TYPES = (
    "F31",
    "f32",
    "F4",
    "F6_E2M3",
    "F8_E8M0",
    "F8_E5M2FNUZ",
    "C64",
    "U64",
    "I4",
    "",
    "F32\0",
    7,
    None,
    ["F32"],
    {"F32": None},
)
NAMES = ("", "__metadata__", "\u2028", "\U0001d51e", "a" * 5000, "\x7f", "a/../b")
METADATA = (
    None,
    {},
    [],
    "pt",
    1,
    {"format": None},
    {"a": 1},
    {"a": ["pt"]},
    {"a": {"b": "c"}},
    {"a": "\u0000"},
    {"é": "😀"},
)
ODD_JSON = (
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\ud83d\\ude00",
    b"\\u0000",
    b"\x00",
    b"\t",
    b"\xef\xbb\xbf",
    b"\\x",
    b",",
    b"//",
)


def good(chance: random.Random) -> tuple[Header, int]:
    """Make a header that is right, and the bytes of data that it needs."""
    header: Header = {"__metadata__": {"format": "pt"}} if chance.random() < 0.7 else {}
    place = 0
    for index in range(chance.randrange(6)):
        dtype = chance.choice(list(SIZES))
        shape = [chance.randrange(5) for _ in range(chance.randrange(4))]
        size = SIZES[dtype]
        for axis in shape:
            size *= axis
        header[f"model.layers.{index}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return header, place


def packed(header: bytes, data: int, length: int | None = None) -> bytes:
    """Write a file: the header's length, or the one given; the header; zeros for data."""
    return struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * data


def mutant(chance: random.Random) -> bytes:
    """Make one file that is probably wrong, and sometimes right."""
    header, data = good(chance)
    if chance.random() < 0.5:
        return _bytes_changed(packed(_text(header), data), chance)
    for _ in range(chance.randrange(1, 3)):
        chance.choice(_STRUCTURAL)(header, chance)
    text = _text(header)
    if chance.random() < 0.3:
        text = chance.choice(_TEXTUAL)(text, chance)
    data = max(0, data + chance.choice((0, 0, 0, 0, -1, 1, 8, -8)))
    return packed(text, data, chance.choice(LENGTHS) if chance.random() < 0.05 else None)


def _text(header: Header) -> bytes:
    return json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _tensor(header: Header, chance: random.Random) -> Header:
    entries = [entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
    return chance.choice(entries) if entries else header


def _change_offset(header: Header, chance: random.Random) -> None:
    offsets = _tensor(header, chance).get("data_offsets")
    if isinstance(offsets, list) and offsets:
        offsets[chance.randrange(len(offsets))] += chance.choice((-8, -4, -1, 1, 4, 8, 1 << 40, 2**63, 2**64))


def _swap_offsets(header: Header, chance: random.Random) -> None:
    offsets = _tensor(header, chance).get("data_offsets")
    if isinstance(offsets, list):
        offsets.reverse()


def _change_shape(header: Header, chance: random.Random) -> None:
    shape = _tensor(header, chance).get("shape")
    if isinstance(shape, list):
        shape.insert(
            chance.randrange(len(shape) + 1),
            chance.choice((0, 1, 2, -1, 2**32, 2**40, 2**63, 2**64 - 1, 2.0, True, None, "2")),
        )


def _overflow(header: Header, chance: random.Random) -> None:
    axes = [2**40, 2**40, 0][: chance.randrange(2, 4)]
    chance.shuffle(axes)
    _tensor(header, chance)["shape"] = axes


def _change_type(header: Header, chance: random.Random) -> None:
    _tensor(header, chance)["dtype"] = chance.choice((*TYPES, *SIZES))


def _change_member(header: Header, chance: random.Random) -> None:
    entry = _tensor(header, chance)
    key = chance.choice(("dtype", "shape", "data_offsets"))
    match chance.randrange(4):
        case 0:
            entry.pop(key, None)
        case 1:
            entry[key] = chance.choice((None, [], {}, "F32", 0, [0], [0, 8, 8], {"0": 1}, [[0, 8]]))
        case 2:
            entry["stride"] = chance.choice((None, [1], {"a": [{}]}, "x", 1e300))
        case _:
            entry[chance.choice(("", "Dtype", "dtype "))] = 1


def _replace_tensor(header: Header, chance: random.Random) -> None:
    names = [name for name in header if name != "__metadata__"]
    if names:
        header[chance.choice(names)] = chance.choice((None, [], {}, 1, "F32", ["F32", [2], [0, 8]], [[]], True))


def _drop(header: Header, chance: random.Random) -> None:
    if header:
        header.pop(chance.choice(list(header)))


def _rename(header: Header, chance: random.Random) -> None:
    if header:
        header[chance.choice(NAMES)] = header.pop(chance.choice(list(header)))


def _repeat(header: Header, chance: random.Random) -> None:
    header[f"twin{chance.randrange(9)}"] = json.loads(json.dumps(_tensor(header, chance)))


def _metadata(header: Header, chance: random.Random) -> None:
    header["__metadata__"] = chance.choice(METADATA)


_STRUCTURAL: tuple[Callable[[Header, random.Random], None], ...] = (
    *(_change_offset, _swap_offsets, _change_shape, _overflow, _change_type, _change_member),
    *(_replace_tensor, _drop, _rename, _repeat, _metadata),
)


def _other_number(text: bytes, chance: random.Random) -> bytes:
    places = [place for place in range(len(text)) if text[place : place + 1].isdigit()]
    if not places:
        return text
    place = chance.choice(places)
    return text[:place] + chance.choice(NUMBERS).encode() + text[place + 1 :]


def _odd_piece(text: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(text) + 1)
    return text[:place] + chance.choice(ODD_JSON) + text[place:]


def _nested(text: bytes, chance: random.Random) -> bytes:
    deep = chance.choice((3, 120, 126, 127, 128, 129, 1000, 100_000))
    left, right = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    middle = b"1" if left == b'{"a":' else b""
    value = left * deep + middle + right * (deep if chance.random() < 0.7 else 0)
    entry = b'"deep":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":' + value + b"}"
    return b"{" + entry + (b"," + text[1:] if len(text) > 2 else b"}")


def _twice(text: bytes, chance: random.Random) -> bytes:
    inner = text[1:-1]
    return b"{" + inner + b"," + inner + b"}" if inner else text


def _padded(text: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        (text + b" " * 9, b" " + text, text + b"\n\t ", text + b"\0", text + b"{}", b"[" + text + b"]")
    )


_TEXTUAL: tuple[Callable[[bytes, random.Random], bytes], ...] = (_other_number, _odd_piece, _nested, _twice, _padded)


def _bytes_changed(content: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(min(len(content), 400) + 1)
        match chance.randrange(6):
            case 0:
                content = content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
            case 1:
                content = content[:place] + bytes([chance.choice(b'{}[]",:0129-eE.\\u \0')]) + content[place + 1 :]
            case 2:
                content = content[:place] + content[place + chance.randrange(1, 9) :]
            case 3:
                content = content[:place] + chance.randbytes(chance.randrange(1, 9)) + content[place:]
            case 4:
                content = content[: chance.randrange(len(content) + 1)] if content else content
            case _:
                content += chance.randbytes(chance.randrange(1, 9))
    return content
